//! `holdfast wasm-compile`: compiles one module or component, in a process of its own that has nothing worth
//! stealing. Its standard input is the code, its standard output the file to be written, its standard error
//! the reason when it fails.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use wasmtime::Module;
use wasmtime::component::Component;

use super::child::confine;
use super::guest::{self, Mode};
use super::{COMPILE_REFUSED, engine};

/// The largest code that is taken.
const LARGEST_INPUT: u64 = 256 << 20;
/// What a compilation may use of memory (data segments, in bytes).
const COMPILE_MEMORY: u64 = 2 << 30;
/// What a compilation may use of the processor, in seconds.
pub(super) const COMPILE_CPU_SECONDS: u64 = 280;
/// The fourth to eighth byte of a core module and of a component (core specification, "Binary format";
/// component model, "Binary").
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

enum CompileError {
    /// The code is the reason.
    Refused(String),
    /// The box is.
    Box(String),
}

/// Runs `wasm-compile <command|http> [uid gid]` and says how it went: 0 is done, 2 is a reason that lies in
/// the code, anything else one that lies in the box.
pub fn compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    match compile(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Refused(why)) => {
            // Nobody is left to be told when this fails.
            let _ = std::io::stderr().write_all(why.as_bytes());
            ExitCode::from(COMPILE_REFUSED)
        }
        Err(CompileError::Box(why)) => {
            let _ = std::io::stderr().write_all(why.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn compile(args: &[String]) -> Result<(), CompileError> {
    let mode = match args.first().map(String::as_str) {
        Some("command") => Mode::Command,
        Some("http") => Mode::Http,
        _ => return Err(CompileError::Box("usage: wasm-compile <command|http> [uid gid]".into())),
    };
    let user = match args.get(1..3) {
        Some([uid, gid]) => uid.parse().ok().zip(gid.parse().ok()),
        _ => None,
    };
    confine::limit_compiler(COMPILE_MEMORY, COMPILE_CPU_SECONDS);
    if let Some((uid, gid)) = user {
        confine::become_user(uid, gid)
            .map_err(|e| CompileError::Box(format!("cannot become user {uid}: {e}")))?;
    }
    // A kernel without seccomp still compiles: the process holds nothing but what it was given.
    let _ = confine::forbid_system_calls();
    let mut source = Vec::new();
    let mut input = std::io::stdin().lock().take(LARGEST_INPUT + 1);
    input.read_to_end(&mut source).map_err(|e| CompileError::Box(format!("cannot read the code: {e}")))?;
    if source.len() as u64 > LARGEST_INPUT {
        return Err(CompileError::Refused(format!("it is larger than {} MiB", LARGEST_INPUT >> 20)));
    }
    let compiled = translate(&source, mode)?;
    let mut output = std::io::stdout().lock();
    output
        .write_all(&compiled)
        .and_then(|()| output.flush())
        .map_err(|e| CompileError::Box(format!("cannot write the compiled code: {e}")))
}

/// Compiles and links `source`; linking finds what it imports and isn't there before anything is stopped.
fn translate(source: &[u8], mode: Mode) -> Result<Vec<u8>, CompileError> {
    let refused = |e: wasmtime::Error| CompileError::Refused(guest::causes(&e));
    let binary = wat::parse_bytes(source).map_err(|e| CompileError::Refused(first_lines(&e.to_string())))?;
    let engine = engine::engine().map_err(|e| CompileError::Box(guest::causes(&e)))?;
    match binary.get(4..8) {
        Some(kind) if binary.starts_with(b"\0asm") && kind == MODULE => {
            let module = Module::from_binary(&engine, &binary).map_err(refused)?;
            guest::link_module(&engine, &module, mode).map_err(refused)?;
            module.serialize().map_err(|e| CompileError::Box(guest::causes(&e)))
        }
        Some(kind) if binary.starts_with(b"\0asm") && kind == COMPONENT => {
            let component = Component::from_binary(&engine, &binary).map_err(refused)?;
            guest::link_component(&engine, &component, mode).map_err(refused)?;
            component.serialize().map_err(|e| CompileError::Box(guest::causes(&e)))
        }
        _ => Err(CompileError::Refused(
            "it is neither a WebAssembly module, nor a component, nor either as text".into(),
        )),
    }
}

/// The beginning of an error of the text parser, which draws the line that it means.
fn first_lines(text: &str) -> String {
    text.lines().take(6).map(str::trim_end).collect::<Vec<_>>().join("\n").chars().take(1000).collect()
}
