//! How large an object may be. A cluster refuses what is larger, and in the middle of an update that is too late.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

/// How many bytes the data of a ConfigMap or a Secret may have, as its API checks it (`MaxSecretSize` in
/// Kubernetes): of the values, `binaryData` and `data` of a Secret decoded; keys don't count.
pub const DATA_LIMIT: usize = 1 << 20;

/// How many bytes an object may have as JSON: etcd's `--max-request-bytes` unless somebody set it. What the server
/// adds to an object is not in it, so what is only just below may still be refused.
pub const OBJECT_LIMIT: usize = 3 << 19;

/// Why no cluster would take `object`, if it is too large for one; for people. A Secret whose values were put aside
/// (`secretRef`) is judged by what is left.
pub fn too_large(object: &Value) -> Option<String> {
    too_much_data(object).or_else(|| {
        let bytes = json_length(object);
        (bytes > OBJECT_LIMIT).then(|| {
            format!(
                "it has {bytes} bytes as JSON, but a cluster stores at most {OBJECT_LIMIT} bytes per object"
            )
        })
    })
}

/// Why `object` is no ConfigMap or Secret at all, on whatever runtime: it holds too much.
pub fn too_much_data(object: &Value) -> Option<String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let sizes = match (text("apiVersion"), text("kind")) {
        ("v1", "ConfigMap") => sizes_of(object, &[("data", str::len), ("binaryData", decoded_length)]),
        ("v1", "Secret") => sizes_of(object, &[("data", decoded_length), ("stringData", str::len)]),
        _ => return None,
    };
    let bytes: usize = sizes.values().sum();
    (bytes > DATA_LIMIT)
        .then(|| format!("it holds {bytes} bytes, but a {} holds {DATA_LIMIT} at most", text("kind")))
}

/// How many bytes a text stands for.
type SizeOf = fn(&str) -> usize;

/// The size of each value by its key; of a key that is there twice the later one counts.
fn sizes_of<'a>(object: &'a Value, fields: &[(&str, SizeOf)]) -> BTreeMap<&'a str, usize> {
    let mut sizes = BTreeMap::new();
    for (field, size) in fields {
        let values = object.get(field).and_then(Value::as_object).into_iter().flatten();
        sizes.extend(values.filter_map(|(key, value)| Some((key.as_str(), size(value.as_str()?)))));
    }
    sizes
}

/// How many bytes a text in base64 stands for.
fn decoded_length(text: &str) -> usize {
    let digits = text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=').count();
    digits * 3 / 4
}

/// How long an object's JSON is, without making it.
fn json_length(object: &Value) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Neither a counter nor a value's JSON can fail.
    let _ = serde_json::to_writer(&mut counter, object);
    counter.0
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_data_of_a_config_map_is_counted_as_the_api_counts_it() {
        let map = |text: usize, bytes: usize| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" },
                "data": { "a": "x".repeat(text) },
                "binaryData": { "b": STANDARD.encode(vec![7; bytes]) },
            })
        };
        assert_eq!(too_large(&map(DATA_LIMIT - 100, 100)), None);
        let refused = too_large(&map(DATA_LIMIT - 100, 101)).unwrap();
        assert!(refused.contains("1048577") && refused.contains("a ConfigMap holds 1048576"), "{refused}");
    }

    #[test]
    fn a_secrets_values_are_counted_once_decoded_and_not_where_they_were_put_aside() {
        let secret = |data: Value, text: Value| json!({ "apiVersion": "v1", "kind": "Secret", "data": data, "stringData": text });
        let large = STANDARD.encode(vec![0; DATA_LIMIT]);
        assert_eq!(too_large(&secret(json!({ "a": large }), json!(null))), None);
        assert!(too_large(&secret(json!({ "a": large }), json!({ "b": "x" }))).is_some());
        assert_eq!(too_large(&secret(json!({ "a": large }), json!({ "a": "x" }))), None, "it is overwritten");
        let aside = secret(json!({ "a": { "secretRef": { "name": "s", "key": "a" } } }), json!(null));
        assert_eq!(too_large(&aside), None);
    }

    #[test]
    fn any_other_object_may_be_as_large_as_the_store_takes() {
        let of = |bytes: usize| json!({ "kind": "Rocket", "spec": "x".repeat(bytes) });
        let around = of(0).to_string().len();
        assert_eq!(too_large(&of(OBJECT_LIMIT - around)), None);
        assert!(too_large(&of(OBJECT_LIMIT - around + 1)).unwrap().contains("1572865 bytes as JSON"));
        assert_eq!(too_much_data(&of(OBJECT_LIMIT)), None);
    }
}
