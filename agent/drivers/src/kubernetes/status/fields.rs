//! Reading fields of an object that a server sent. What is missing or of a wrong type is absent: an object may be
//! of any custom resource, and nothing of it may bring the agent down.

use serde_json::Value;

/// How many characters of a text from outside are kept: conditions may hold 32 KiB.
const LONGEST: usize = 400;

/// A text, if it is one and isn't empty. `pointer` is an RFC 6901 pointer, as in all of these.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// A whole number.
pub(crate) fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer)?.as_i64()
}

/// A count of pods or the like. Kubernetes' are of 32 bits, so that sums of these can't overflow.
pub(crate) fn count(object: &Value, pointer: &str) -> Option<i64> {
    number(object, pointer).map(|number| number.clamp(0, i32::MAX.into()))
}

/// A flag; what is absent is false, as everywhere in Kubernetes.
pub(crate) fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The items of a list.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An annotation, even if it is empty.
pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// One of `status.conditions`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition<'a>(&'a Value);

impl<'a> Condition<'a> {
    /// The condition of this type; the first one, where a careless controller wrote several.
    pub(crate) fn of(object: &'a Value, kind: &str) -> Option<Self> {
        list(object, "/status/conditions").iter().find(|one| text(one, "/type") == Some(kind)).map(Self)
    }

    /// The condition of this type, if it is true.
    pub(crate) fn that_is_true(object: &'a Value, kind: &str) -> Option<Self> {
        Self::of(object, kind).filter(|condition| condition.is("True"))
    }

    /// Whether it has this status: `True`, `False` or `Unknown`.
    pub(crate) fn is(&self, status: &str) -> bool {
        text(self.0, "/status") == Some(status)
    }

    /// Its reason, one word of CamelCase.
    pub(crate) fn reason(&self) -> Option<&'a str> {
        text(self.0, "/reason")
    }

    /// Which generation of the object it speaks of, where it says so.
    pub(crate) fn generation(&self) -> Option<i64> {
        number(self.0, "/observedGeneration")
    }

    /// What it says, for people.
    pub(crate) fn says(&self) -> String {
        words(self.reason(), text(self.0, "/message"))
    }
}

/// A reason and a message as one text.
pub(crate) fn words(reason: Option<&str>, message: Option<&str>) -> String {
    match (reason, message) {
        (Some(reason), Some(message)) => clipped(&format!("{reason}: {message}")),
        (Some(one), None) | (None, Some(one)) => clipped(one),
        (None, None) => "no reason is given".to_owned(),
    }
}

/// A text from outside on one line and of bounded length.
pub(crate) fn clipped(text: &str) -> String {
    let mut words = text.split(|one: char| one.is_whitespace() || one.is_control());
    let mut kept = String::new();
    let mut length = 0;
    while let Some(word) = words.find(|word| !word.is_empty()) {
        let gap = usize::from(!kept.is_empty());
        let room = LONGEST.saturating_sub(length + gap);
        if gap > 0 {
            kept.push(' ');
        }
        kept.extend(word.chars().take(room));
        let size = word.chars().count();
        if size > room {
            kept.push('…');
            break;
        }
        length += gap + size;
    }
    kept
}
