//! Templates: minijinja within bounds, whatever a template does.
//!
//! - Nothing can be loaded: there is no loader, and no include, import or extends.
//! - An undefined value is an error.
//! - Time: minijinja's fuel counts instructions; what one instruction may touch is paid for (`budget`).
//! - Memory: the same payment, a limit on plain text in loops and on the output.
//! - Stack: limits on recursion and on the depth of what a template builds.
//!
//! minijinja can't be told to charge for its operators. So a compiled template is patched: each operator's
//! instruction becomes a call of a filter that pays and then does the same.

mod budget;
mod check;
mod operations;
mod operators;
#[cfg(test)]
mod tests;

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse};
use minijinja::{AutoEscape, Environment, Error, Value};

use crate::diagnostic::{Diagnostic, Position};

/// The longest template, in bytes.
const SOURCE_LIMIT: usize = 256 << 10;
/// The longest output, in bytes.
const OUTPUT_LIMIT: usize = 4 << 20;
/// How many instructions a template may run.
const FUEL: u64 = 300_000;
/// How many bytes of plain text may be written again and again: the longest piece in a loop or macro, times
/// the instructions, stays under this.
const REPEATED_LIMIT: u64 = 64 << 20;

/// Whether there is anything to render in `text`.
pub(super) fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// Renders the template `source`, which begins at `at` in `file`.
pub(super) fn render(
    file: &str,
    at: Position,
    source: &str,
    root: &Value,
) -> Result<String, Vec<Diagnostic>> {
    let (mut instructions, blocks, fuel) = compile(file, at, source)?;
    if let Err(message) = patch(&mut instructions) {
        return Err(vec![Diagnostic::new(file, at, message)]);
    }
    run(&instructions, blocks, root, fuel).map_err(|error| vec![explain(file, at, source, &error)])
}

/// Looks at a template without rendering it.
pub(super) fn check(file: &str, source: &str) -> Result<(), Vec<Diagnostic>> {
    compile(file, Position::START, source).map(|_| ())
}

/// The template's instructions, and how many of them may run.
fn compile<'a>(
    file: &'a str,
    at: Position,
    source: &'a str,
) -> Result<(Instructions<'a>, Blocks<'a>, u64), Vec<Diagnostic>> {
    if source.len() > SOURCE_LIMIT {
        let message = format!("the template has {} bytes; at most {SOURCE_LIMIT} are rendered", source.len());
        return Err(vec![Diagnostic::new(file, at, message).hint("split it")]);
    }
    // minijinja counts lines in 16 bits.
    if source.bytes().filter(|b| *b == b'\n').count() >= usize::from(u16::MAX) {
        return Err(vec![
            Diagnostic::new(file, at, "the template has more than 65,535 lines").hint("split it"),
        ]);
    }
    let tree =
        parse(source, file, Default::default()).map_err(|error| vec![explain(file, at, source, &error)])?;
    let mut shape = check::Shape::default();
    shape.statement(&tree);
    if !shape.refused.is_empty() {
        let tell =
            |refused: &check::Refused| Diagnostic::new(file, shifted(at, refused.line, 1), refused.message);
        return Err(shape.refused.iter().map(tell).collect());
    }
    let mut generator = CodeGenerator::new(file, source);
    generator.compile_stmt(&tree);
    let (instructions, blocks) = generator.finish();
    let repeated = shape.longest_repeated.max(1) as u64;
    Ok((instructions, blocks, FUEL.min(REPEATED_LIMIT / repeated)))
}

type Blocks<'a> = std::collections::BTreeMap<&'a str, Instructions<'a>>;

fn run(
    instructions: &Instructions<'_>,
    blocks: Blocks<'_>,
    root: &Value,
    fuel: u64,
) -> Result<String, Error> {
    let mut env: Environment<'_> = operations::environment().clone();
    env.set_fuel(Some(fuel));
    let mut output = String::new();
    evaluate(&env, instructions, &blocks, root, &mut output)?;
    if output.len() > OUTPUT_LIMIT {
        let message = format!("the output has {} bytes; at most {OUTPUT_LIMIT} are allowed", output.len());
        return Err(Error::new(minijinja::ErrorKind::InvalidOperation, message));
    }
    Ok(output)
}

/// Ties the environment's lifetime to the template's.
fn evaluate<'a>(
    env: &'a Environment<'a>,
    instructions: &'a Instructions<'a>,
    blocks: &'a Blocks<'a>,
    root: &Value,
    output: &mut String,
) -> Result<(), Error> {
    eval(env, instructions, root.clone(), blocks, &mut make_string_output(output), AutoEscape::None)?;
    Ok(())
}

/// Makes every operator a call of the filter that pays for it.
fn patch(instructions: &mut Instructions<'_>) -> Result<(), &'static str> {
    use operators::*;
    /// As minijinja has it: don't remember the filter by a number.
    const UNNUMBERED: u8 = !0;
    let mut index = 0;
    while let Some(instruction) = instructions.get_mut(index) {
        index += 1;
        let (name, operands) = match instruction {
            Instruction::Add => (ADD, 2),
            Instruction::Mul => (MULTIPLY, 2),
            Instruction::StringConcat => (CONCAT, 2),
            Instruction::Eq => (EQUAL, 2),
            Instruction::Ne => (UNEQUAL, 2),
            Instruction::Gt => (GREATER, 2),
            Instruction::Gte => (GREATER_OR_EQUAL, 2),
            Instruction::Lt => (LESS, 2),
            Instruction::Lte => (LESS_OR_EQUAL, 2),
            Instruction::In => (CONTAINS, 2),
            Instruction::Slice => (SLICE, 4),
            Instruction::BuildList(Some(items)) | Instruction::BuildTuple(Some(items)) => (LIST, *items),
            Instruction::BuildMap(pairs) => (MAP, *pairs * 2),
            Instruction::BuildList(None)
            | Instruction::BuildTuple(None)
            | Instruction::UnpackLists(_)
            | Instruction::CompareAndPreserve(_) => {
                return Err("the template uses an operation whose cost can't be limited");
            }
            _ => continue,
        };
        let Ok(operands) = u16::try_from(operands) else {
            return Err("a list or map in the template has more than 65,535 items");
        };
        *instruction = Instruction::ApplyFilter(name, Some(operands), UNNUMBERED);
    }
    Ok(())
}

/// What went wrong in a template, as a diagnostic.
fn explain(file: &str, at: Position, source: &str, error: &Error) -> Diagnostic {
    use minijinja::ErrorKind;
    let line = error.line().unwrap_or(1);
    let column = error
        .range()
        .and_then(|range| source.get(..range.start))
        .map_or(1, |before| before.rsplit('\n').next().unwrap_or("").chars().count() + 1);
    let detail = error.detail().map(|detail| detail.chars().take(300).collect::<String>());
    let (message, hint) = match error.kind() {
        ErrorKind::OutOfFuel => (
            "the template runs for too long".to_owned(),
            Some("its loops have too many iterations or produce too much output"),
        ),
        ErrorKind::UndefinedError => (
            format!("undefined value{}", detail.map(|detail| format!(": {detail}")).unwrap_or_default()),
            Some("define it in values, or write | default(…)"),
        ),
        kind => match detail {
            Some(detail) => (format!("{kind}: {detail}"), None),
            None => (kind.to_string(), None),
        },
    };
    let mut diagnostic = Diagnostic::new(file, shifted(at, line, column), message);
    diagnostic.hint = hint.map(str::to_owned);
    diagnostic
}

/// Line and column in a template, as they are in the file around it.
fn shifted(at: Position, line: usize, column: usize) -> Position {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let column = if line <= 1 { at.column.saturating_add(number(column) - 1) } else { number(column) };
    Position { line: at.line.saturating_add(number(line.max(1)) - 1), column }
}
