//! Labels, and Kubernetes label selectors over them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::decode::{Context, Decode, entries, record, words};
use crate::diagnostic::quoted;
use crate::yaml::Node;

/// The prefix of labels that say what the hardware is. Only the agent gives them.
pub const HARDWARE_PREFIX: &str = "hw.holdfast.dev/";

/// Labels of a box.
pub type Labels = BTreeMap<String, String>;

/// The labels that a document gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GivenLabels(pub Labels);

impl Decode for GivenLabels {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let mut labels = Labels::new();
        for entry in entries(node, context)? {
            if let Err(reason) = check_key(&entry.key) {
                context.error(entry.at, reason);
            } else if entry.key.starts_with(HARDWARE_PREFIX) {
                let message = format!(
                    "labels under {HARDWARE_PREFIX} are reserved: the agent sets them from the box's hardware"
                );
                context.error_with(entry.at, message, "use a label of your own");
            }
            if let Some(value) = LabelValue::decode(&entry.node, context) {
                labels.insert(entry.key.clone(), value.0);
            }
        }
        Some(GivenLabels(labels))
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": LabelValue::schema()})
    }
}

/// A label's value, as Kubernetes allows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelValue(pub String);

impl Decode for LabelValue {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let text = String::decode(node, context)?;
        if text.is_empty() || is_qualified(&text) {
            return Some(LabelValue(text));
        }
        context.error(node.at, format!("{} is not a valid label value: {RULE}", quoted(&text)));
        None
    }

    fn schema() -> Value {
        json!({"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"})
    }
}

const RULE: &str =
    "use up to 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";

/// Whether it is a Kubernetes qualified name's last part.
fn is_qualified(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_domain = |prefix: &str| {
        prefix.len() <= 253
            && prefix
                .split('.')
                .all(|part| is_qualified(part) && !part.bytes().any(|b| b.is_ascii_uppercase()))
    };
    if is_qualified(name) && prefix.is_none_or(is_domain) {
        Ok(())
    } else {
        Err(format!(
            "{} is not a valid label name: {RULE}, optionally with a domain and '/' before it",
            quoted(key)
        ))
    }
}

record! {
    /// A Kubernetes label selector: everything in it must hold. `{}` selects every box.
    pub struct Selector, "the selector" {
        /// Labels that must have exactly these values.
        "matchLabels" => match_labels: BTreeMap<String, LabelValue> = BTreeMap::new();
        /// Requirements on labels.
        "matchExpressions" => match_expressions: Vec<Requirement> = Vec::new();
    }
}

words! {
    /// How a requirement compares.
    pub enum Operator {
        /// The label is one of the values.
        In = "In",
        /// The label is absent or none of the values.
        NotIn = "NotIn",
        /// The label is present.
        Exists = "Exists",
        /// The label is absent.
        DoesNotExist = "DoesNotExist",
    }
}

record! {
    /// A requirement as it is written.
    pub struct RequirementFields, "the requirement" {
        /// The label's name.
        "key" => key: String;
        /// How its value is compared.
        "operator" => operator: Operator;
        /// The values that it is compared with; only for In and NotIn.
        "values" => values: Vec<LabelValue> = Vec::new();
    }
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement(RequirementFields);

impl Decode for Requirement {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = RequirementFields::decode(node, context)?;
        let needs_values = matches!(fields.operator, Operator::In | Operator::NotIn);
        if needs_values == fields.values.is_empty() {
            let message = if needs_values {
                "In and NotIn need values"
            } else {
                "Exists and DoesNotExist must not have values"
            };
            context.error(node.at, message);
            return None;
        }
        Some(Requirement(fields))
    }

    fn schema() -> Value {
        RequirementFields::schema()
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let label = labels.get(&self.0.key);
        let among = || label.is_some_and(|label| self.0.values.iter().any(|value| &value.0 == label));
        match self.0.operator {
            Operator::In => among(),
            Operator::NotIn => !among(),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

impl Selector {
    /// Whether a box with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(&value.0))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Dialect, parse};

    fn selector(text: &str) -> Result<Selector, String> {
        let node = parse("f", text.as_bytes(), Dialect::Strict, 10_000).unwrap().remove(0);
        let mut context = Context::new("f");
        let selector = Selector::decode(&node, &mut context);
        if context.errors.is_empty() {
            Ok(selector.unwrap())
        } else {
            Err(context.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
    }

    fn matches(text: &str) -> bool {
        let labels = [("tier", "retail"), ("region", "emea")];
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        selector(text).unwrap().matches(&labels)
    }

    #[test]
    fn selectors_select_as_in_kubernetes() {
        assert!(matches("{}"));
        assert!(matches("matchLabels: {tier: retail, region: emea}"));
        assert!(!matches("matchLabels: {tier: retail, region: apac}"));
        for (expression, expected) in [
            ("{key: tier, operator: In, values: [retail, lab]}", true),
            ("{key: tier, operator: In, values: [lab]}", false),
            ("{key: gpu, operator: In, values: [a]}", false),
            ("{key: tier, operator: NotIn, values: [retail]}", false),
            ("{key: gpu, operator: NotIn, values: [a]}", true),
            ("{key: tier, operator: Exists}", true),
            ("{key: gpu, operator: Exists}", false),
            ("{key: tier, operator: DoesNotExist}", false),
            ("{key: gpu, operator: DoesNotExist}", true),
        ] {
            assert_eq!(matches(&format!("matchExpressions: [{expression}]")), expected, "{expression}");
        }
    }

    #[test]
    fn a_selector_that_says_nothing_clear_is_refused() {
        assert!(selector("matchLabel: {}").unwrap_err().contains("did you mean matchLabels?"));
        assert!(selector("matchExpressions: [{key: a, operator: In}]").unwrap_err().contains("need values"));
        assert!(selector("matchExpressions: [{key: a, operator: Exists, values: [b]}]").is_err());
        assert!(
            selector("matchExpressions: [{key: a, operator: Is}]").unwrap_err().contains("not one of In")
        );
        assert!(selector("matchLabels: {a: 1}").unwrap_err().contains("expected a string"));
    }
}
