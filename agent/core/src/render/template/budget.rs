//! What a template may cost. minijinja counts instructions; one instruction may still double a text or
//! compare two trees of exponential size. So every operation that touches a value pays for its size first.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// What all operations of one template may touch: bytes of text, and for each value in a tree `VALUE` more.
const WORK: u64 = 16 << 20;
/// What a value costs beside its text: about what it takes in memory.
const VALUE: u64 = 16;
/// How deep lists and maps that a template makes may be nested. What is deeper would be dropped, printed and
/// compared on a stack that has an end.
pub(super) const DEPTH: usize = 48;

/// What is left, kept in the state of one rendering.
struct Budget {
    left: u64,
}

fn take(left: &mut u64, units: u64) -> Result<(), Error> {
    match left.checked_sub(units) {
        Some(rest) => {
            *left = rest;
            Ok(())
        }
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            "the template is too expensive: the strings or lists that it builds exceed the limit for a template",
        )),
    }
}

/// Pays `units` out of the rendering's budget.
pub(super) fn pay(state: &mut State<'_, '_>, units: u64) -> Result<(), Error> {
    take(&mut state.get_or_insert_extension_with(|| Budget { left: WORK }).left, units)
}

/// Pays for the size of `values`, `times` over; fails for what is undefined, and for trees that are too deep.
pub(super) fn pay_for(state: &mut State<'_, '_>, values: &[Value], times: u64) -> Result<u64, Error> {
    let budget = state.get_or_insert_extension_with(|| Budget { left: WORK });
    let before = budget.left;
    for value in values {
        weigh(value, &mut budget.left, DEPTH)?;
    }
    let weight = before - budget.left;
    take(&mut budget.left, weight.saturating_mul(times.saturating_sub(1)))?;
    Ok(weight)
}

fn weigh(value: &Value, left: &mut u64, depth: usize) -> Result<(), Error> {
    take(left, VALUE + value.as_str().map_or(0, |text| text.len() as u64))?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "it is used before it has a value"));
    }
    if value.as_bytes().is_some_and(|bytes| bytes.len() > 4096) {
        take(left, WORK)?;
    }
    let Some(below) = depth.checked_sub(1) else {
        return Err(Error::new(ErrorKind::InvalidOperation, "lists and maps are nested too deeply"));
    };
    match value.kind() {
        ValueKind::Map => {
            let Some(object) = value.as_object() else { return Ok(()) };
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                weigh(&key, left, below)?;
                weigh(&value, left, below)?;
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                weigh(&item, left, below)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// How long a text is, or 0.
pub(super) fn length(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_str).map_or(0, |text| text.len() as u64)
}

/// A keyword argument among call arguments, which come last as one value.
pub(super) fn keyword(args: &[Value], name: &str) -> Option<Value> {
    let last = args.last().filter(|last| last.is_kwargs())?;
    let kwargs = Kwargs::try_from(last.clone()).ok()?;
    kwargs.peek::<Value>(name).ok()
}
