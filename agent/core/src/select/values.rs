//! An app's values in layers: which layer counts before which; maps merge, lists replace, null deletes.

use serde_json::{Map, Value};

use super::Ground;
use crate::model::{App, Labels, Values, document};
use crate::name::AppName;

/// The app's values, later layers over earlier ones (CONTRACT: "Labels of a box").
pub(super) fn layered(ground: &Ground, app: &App, name: &AppName, labels: &Labels) -> Values {
    let mut values = Values::new();
    merge(&mut values, &app.spec.values);
    let fleet = &ground.fleet.spec;
    let mut layer = |own: &Values, apps: &document::AppLayers| {
        merge(&mut values, own);
        if let Some(entry) = apps.0.get(name) {
            merge(&mut values, &entry.value.values);
        }
    };
    layer(&fleet.values, &fleet.apps);
    for group in fleet.groups.iter().filter(|group| group.when.matches(labels)) {
        layer(&group.values, &group.apps);
    }
    let none = document::AppLayers::default();
    for layer_of_app in app.spec.overrides.iter().filter(|layer| layer.when.matches(labels)) {
        layer(&layer_of_app.values, &none);
    }
    if let Some(site) = &ground.site {
        layer(&site.spec.values, &site.spec.apps);
    }
    layer(&ground.device.spec.values, &ground.device.spec.apps);
    values
}

/// Merges `layer` over `base`. What stays has no null in any of its maps (in lists null is a value as any
/// other).
fn merge(base: &mut Map<String, Value>, layer: &Map<String, Value>) {
    for (key, value) in layer {
        match value {
            Value::Null => {
                base.remove(key);
            }
            Value::Object(layer) => {
                let slot = base.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    merge(slot, layer);
                }
            }
            other => {
                base.insert(key.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("not a map"),
        }
    }

    fn merged(layers: &[Value]) -> Value {
        let mut base = Map::new();
        for layer in layers {
            merge(&mut base, &map(layer.clone()));
        }
        Value::Object(base)
    }

    #[test]
    fn maps_merge_lists_replace_and_null_deletes() {
        let base = json!({"a": {"x": 1, "y": 2}, "l": [1, 2], "gone": 1, "s": "t"});
        let layer = json!({"a": {"y": 3, "z": {"q": 1}}, "l": [3], "gone": null, "s": {"m": 1}});
        let expected = json!({"a": {"x": 1, "y": 3, "z": {"q": 1}}, "l": [3], "s": {"m": 1}});
        assert_eq!(merged(&[base, layer]), expected);
    }

    #[test]
    fn what_was_deleted_may_come_back_in_a_later_layer() {
        let layers = [json!({"a": {"x": 1}}), json!({"a": null}), json!({"a": {"y": 2}})];
        assert_eq!(merged(&layers), json!({"a": {"y": 2}}));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn any_map() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-c]", any_value(), 0..4).prop_map(|map| map.into_iter().collect())
    }

    fn has_null(map: &Map<String, Value>) -> bool {
        map.values().any(|value| match value {
            Value::Null => true,
            Value::Object(map) => has_null(map),
            _ => false,
        })
    }

    proptest! {
        #[test]
        fn an_empty_layer_changes_nothing(layers in prop::collection::vec(any_map(), 0..4)) {
            let mut base = Map::new();
            layers.iter().for_each(|layer| merge(&mut base, layer));
            let before = base.clone();
            merge(&mut base, &Map::new());
            prop_assert_eq!(base, before);
        }

        #[test]
        fn the_same_layer_twice_is_the_same_as_once(base in any_map(), layer in any_map()) {
            let mut once = base;
            merge(&mut once, &layer);
            let mut twice = once.clone();
            merge(&mut twice, &layer);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn the_last_layer_wins_wherever_it_says_anything(base in any_map(), layer in any_map()) {
            let mut result = base;
            merge(&mut result, &layer);
            for (key, value) in &layer {
                match value {
                    Value::Null => prop_assert!(!result.contains_key(key)),
                    Value::Object(_) => prop_assert!(result[key].is_object()),
                    other => prop_assert_eq!(&result[key], other),
                }
            }
        }

        #[test]
        fn no_null_is_left_in_any_map(layers in prop::collection::vec(any_map(), 0..4)) {
            let mut base = Map::new();
            layers.iter().for_each(|layer| merge(&mut base, layer));
            prop_assert!(!has_null(&base));
        }
    }
}
