//! Operators as filters: compiled templates are patched to call these instead (see `super::patch`), so that
//! they pay. The names can't be written in a template.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};

use super::budget::{pay, pay_for};
use super::operations::{operators, printed};

pub(super) const ADD: &str = "+";
pub(super) const MULTIPLY: &str = "*";
pub(super) const CONCAT: &str = "~";
pub(super) const EQUAL: &str = "==";
pub(super) const UNEQUAL: &str = "!=";
pub(super) const GREATER: &str = ">";
pub(super) const GREATER_OR_EQUAL: &str = ">=";
pub(super) const LESS: &str = "<";
pub(super) const LESS_OR_EQUAL: &str = "<=";
pub(super) const CONTAINS: &str = "in";
pub(super) const SLICE: &str = "[:]";
pub(super) const LIST: &str = "[]";
pub(super) const MAP: &str = "{}";

/// Adds them all.
pub(super) fn add(env: &mut Environment<'static>) {
    let mut operator =
        |name: &'static str, work: fn(&mut State<'_, '_>, Vec<Value>) -> Result<Value, Error>| {
            env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
                let args = args.into_values();
                pay_for(state, &args, 1)?;
                work(state, args)
            });
        };
    operator(ADD, |_, args| {
        let [a, b] = defined(args)?;
        operators()?.add.eval(context! { a, b })
    });
    operator(MULTIPLY, |state, args| {
        let [a, b] = defined(args)?;
        // What a text or a list is multiplied with is how often it is there.
        let times = |n: &Value, other: &Value| match other.is_number() {
            true => 0,
            false => u64::try_from(n.clone()).unwrap_or(0),
        };
        let factor = times(&b, &a).max(times(&a, &b));
        if factor > 0 {
            let weight = pay_for(state, &[a.clone(), b.clone()], 1)?;
            pay(state, weight.saturating_mul(factor))?;
        }
        operators()?.multiply.eval(context! { a, b })
    });
    operator(CONCAT, |_, args| {
        let [a, b] = defined(args)?;
        Ok(Value::from(format!("{}{}", printed(&a)?, printed(&b)?)))
    });
    operator(EQUAL, |_, args| defined(args).map(|[a, b]| Value::from(a == b)));
    operator(UNEQUAL, |_, args| defined(args).map(|[a, b]| Value::from(a != b)));
    operator(GREATER, |_, args| defined(args).map(|[a, b]| Value::from(a > b)));
    operator(GREATER_OR_EQUAL, |_, args| defined(args).map(|[a, b]| Value::from(a >= b)));
    operator(LESS, |_, args| defined(args).map(|[a, b]| Value::from(a < b)));
    operator(LESS_OR_EQUAL, |_, args| defined(args).map(|[a, b]| Value::from(a <= b)));
    operator(CONTAINS, |_, args| {
        let [a, b] = defined(args)?;
        operators()?.contains.eval(context! { a, b })
    });
    operator(SLICE, |_, args| {
        let [a, b, c, d] = defined(args)?;
        operators()?.slice.eval(context! { a, b, c, d })
    });
    operator(LIST, |_, args| Ok(Value::from(args)));
    operator(MAP, |_, args| map(&args));
}

/// A map of keys and values in turn.
fn map(args: &[Value]) -> Result<Value, Error> {
    args.chunks_exact(2)
        .map(|pair| match pair[0].as_str() {
            Some(key) => Ok((key.to_owned(), pair[1].clone())),
            None => Err(Error::new(ErrorKind::InvalidOperation, "the keys of a map must be strings")),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(|pairs| pairs.into_iter().collect::<std::collections::BTreeMap<_, _>>().into())
}

fn defined<const N: usize>(args: Vec<Value>) -> Result<[Value; N], Error> {
    if args.iter().any(Value::is_undefined) {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "an operator is given a value that is not defined",
        ));
    }
    args.try_into().map_err(|_| Error::new(ErrorKind::InvalidOperation, "wrong number of operands"))
}
