//! What templates can do: minijinja's own filters, tests and operators, each of which pays before it runs.
//! What can't be paid for beforehand (`format`, `batch`, `namespace` and the like) isn't here.

use std::borrow::Cow;
use std::sync::OnceLock;

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Expression, State, UndefinedBehavior, Value, filters,
    functions, tests,
};

use super::budget::{keyword, length, pay, pay_for};

/// How deep loops, blocks and macros may call each other, in minijinja's count (a macro costs 4).
const RECURSION_LIMIT: usize = 60;

/// What a filter makes beyond the size of its arguments, or how often it looks at them.
type Extra = fn(&[Value], weight: u64) -> u64;

/// The environment that every template is rendered in. Nothing can be loaded into it.
pub(super) fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(build)
}

fn build() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_debug(false);
    env.set_formatter(|out, state, value| {
        pay_for(state, std::slice::from_ref(value), 2)?;
        Ok(out.write_str(&printed(value)?)?)
    });
    add_filters(&mut env);
    add_tests(&mut env);
    env.add_function("range", functions::range);
    let dict = Value::from_function(functions::dict);
    env.add_function("dict", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        pay_for(state, &args, 1)?;
        dict.call(state, &args)
    });
    super::operators::add(&mut env);
    env
}

/// A value as it is put into the output: text as it stands, everything else as JSON, which YAML reads as what
/// it is. (Python's True, None and quotes, which Jinja prints, it would read as text.)
pub(super) fn printed(value: &Value) -> Result<Cow<'_, str>, Error> {
    use minijinja::value::ValueKind;
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            serde_json::to_string(value).map(Cow::Owned).map_err(|error| {
                Error::new(ErrorKind::BadSerialization, format!("this can't be written as JSON: {error}"))
            })
        }
        _ => Ok(Cow::Owned(value.to_string())),
    }
}

/// The arguments that must be defined: for what asks whether its first one is, that one need not be.
fn asked<'a>(name: &str, args: &'a [Value]) -> &'a [Value] {
    match args {
        [first, rest @ ..]
            if first.is_undefined() && matches!(name, "default" | "d" | "defined" | "undefined") =>
        {
            rest
        }
        _ => args,
    }
}

fn linear(_: &[Value], _: u64) -> u64 {
    0
}

/// For what compares items with each other.
fn sorting(_: &[Value], weight: u64) -> u64 {
    weight.saturating_mul(20)
}

fn add_filters(env: &mut Environment<'static>) {
    let mut add = |name: &'static str, filter: Value, extra: Extra| {
        env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let weight = pay_for(state, asked(name, &args), 2)?;
            pay(state, extra(&args, weight))?;
            filter.call(state, &args)
        });
    };
    macro_rules! add {
        ($($name:ident: $extra:expr),* $(,)?) => {
            $( add(stringify!($name), Value::from_function(filters::$name), $extra); )*
        };
    }
    add! {
        abs: linear, attr: linear, bool: linear, capitalize: linear, default: linear, first: linear,
        float: linear, int: linear, items: linear, last: linear, length: linear, lines: linear,
        list: linear, lower: linear, map: linear, reject: linear, rejectattr: linear, reverse: linear,
        round: linear, select: linear, selectattr: linear, split: linear, string: linear, title: linear,
        trim: linear, upper: linear,
        dictsort: sorting, groupby: sorting, max: sorting, min: sorting, sort: sorting, unique: sorting,
        indent: indented, join: joined, replace: replaced, tojson: as_json,
    }
    add("count", Value::from_function(filters::length), linear);
    add("d", Value::from_function(filters::default), linear);
}

/// Each line becomes longer by the width.
fn indented(args: &[Value], weight: u64) -> u64 {
    let width = args.get(1).filter(|width| !width.is_kwargs()).cloned().or_else(|| keyword(args, "width"));
    let width = width.map_or(4, |width| match width.as_str() {
        Some(text) => text.len() as u64,
        None => u64::try_from(width).unwrap_or(u64::MAX),
    });
    weight.saturating_mul(width)
}

/// The separator stands between any two items.
fn joined(args: &[Value], weight: u64) -> u64 {
    weight.saturating_mul(length(args.get(1)))
}

/// The new text may stand wherever there was a character.
fn replaced(args: &[Value], _: u64) -> u64 {
    let (text, from, to) = (length(args.first()), length(args.get(1)), length(args.get(2)));
    (text / from.max(1) + 1).saturating_mul(to)
}

/// With an indent every value stands on a line of its own, which begins with spaces.
fn as_json(args: &[Value], weight: u64) -> u64 {
    let indent =
        args.get(1).filter(|indent| !indent.is_kwargs()).cloned().or_else(|| keyword(args, "indent"));
    let indent = indent.map_or(0, |indent| u64::try_from(indent).unwrap_or(4));
    weight.saturating_mul(indent).saturating_mul(super::budget::DEPTH as u64)
}

fn add_tests(env: &mut Environment<'static>) {
    let mut add = |name: &'static str, test: Value| {
        env.add_test(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            pay_for(state, asked(name, &args), 1)?;
            test.call(state, &args)
        });
    };
    macro_rules! add {
        ($($name:literal: $test:ident),* $(,)?) => {
            $( add($name, Value::from_function(tests::$test)); )*
        };
    }
    add! {
        "boolean": is_boolean, "defined": is_defined, "divisibleby": is_divisibleby, "endingwith": is_endingwith,
        "eq": is_eq, "equalto": is_eq, "==": is_eq, "even": is_even, "false": is_false, "float": is_float,
        "ge": is_ge, ">=": is_ge, "gt": is_gt, "greaterthan": is_gt, ">": is_gt, "in": is_in,
        "integer": is_integer, "iterable": is_iterable, "le": is_le, "<=": is_le, "lessthan": is_lt, "lt": is_lt,
        "<": is_lt, "mapping": is_mapping, "ne": is_ne, "!=": is_ne, "none": is_none, "number": is_number,
        "odd": is_odd, "sequence": is_sequence, "startingwith": is_startingwith, "string": is_string,
        "true": is_true, "undefined": is_undefined,
    }
}

/// minijinja's own operators, which it doesn't offer as functions, as small expressions over `a` to `d`.
pub(super) struct Operators {
    pub(super) add: Expression<'static, 'static>,
    pub(super) multiply: Expression<'static, 'static>,
    pub(super) contains: Expression<'static, 'static>,
    pub(super) slice: Expression<'static, 'static>,
}

/// The operators, compiled once.
pub(super) fn operators() -> Result<&'static Operators, Error> {
    static PLAIN: OnceLock<Environment<'static>> = OnceLock::new();
    static OPERATORS: OnceLock<Option<Operators>> = OnceLock::new();
    let env = PLAIN.get_or_init(|| {
        let mut env = Environment::empty();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_debug(false);
        env
    });
    let compile = || -> Result<Operators, Error> {
        Ok(Operators {
            add: env.compile_expression("a + b")?,
            multiply: env.compile_expression("a * b")?,
            contains: env.compile_expression("a in b")?,
            slice: env.compile_expression("a[b:c:d]")?,
        })
    };
    OPERATORS
        .get_or_init(|| compile().ok())
        .as_ref()
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the operators don't compile"))
}
