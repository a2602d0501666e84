//! What a guest gets from the host: the data of its store, the functions that it may import, and the
//! check that a module or component is what its App document says.

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Module};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::child::memory::Usage;

/// What a workload is run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It has a beginning and maybe an end: WASI p1 `_start`, or `wasi:cli/run`.
    Command,
    /// It answers requests: `wasi:http/incoming-handler`.
    Http,
}

/// The store's data of a component.
pub(super) struct ComponentGuest {
    pub(super) wasi: WasiCtx,
    pub(super) http: WasiHttpCtx,
    pub(super) hooks: NoRequests,
    pub(super) table: ResourceTable,
    pub(super) usage: Usage,
}

impl WasiView for ComponentGuest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentGuest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// The store's data of a core module.
pub(super) struct ModuleGuest {
    pub(super) wasi: WasiP1Ctx,
    pub(super) usage: Usage,
}

/// What a guest's own HTTP requests come to: none is let out.
pub(super) struct NoRequests;

type Sent = Result<
    (hyper::Response<WasiBody>, Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>),
    wasmtime_wasi_http::Error,
>;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _request: hyper::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }
}

/// Code with its imports found, ready to be made an instance of.
pub(super) enum Linked {
    Module(wasmtime::InstancePre<ModuleGuest>),
    Command(CommandPre<ComponentGuest>),
    Http(ProxyPre<ComponentGuest>),
}

/// Links a core module; it must be a WASI p1 command.
pub(super) fn link_module(engine: &Engine, module: &Module, mode: Mode) -> wasmtime::Result<Linked> {
    if mode == Mode::Http {
        return Err(wasmtime::Error::msg(
            "it is a core module, and only a component can serve `http`: build it for wasm32-wasip2, or leave `http` out",
        ));
    }
    let start = module.get_export("_start").and_then(|export| export.func().cloned());
    if !start.is_some_and(|start| start.params().len() == 0 && start.results().len() == 0) {
        return Err(wasmtime::Error::msg(
            "it has no function `_start`, so it isn't a WASI command: build a program, not a library",
        ));
    }
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut ModuleGuest| &mut guest.wasi)?;
    Ok(Linked::Module(linker.instantiate_pre(module)?))
}

/// Links a component; it must export what `mode` asks for.
pub(super) fn link_component(engine: &Engine, component: &Component, mode: Mode) -> wasmtime::Result<Linked> {
    let mut linker: Linker<ComponentGuest> = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    let ready = linker.instantiate_pre(component)?;
    match mode {
        Mode::Http => ProxyPre::new(ready).map(Linked::Http).map_err(|e| {
            e.context("`http` is set, and the component doesn't export wasi:http/incoming-handler@0.2")
        }),
        Mode::Command => CommandPre::new(ready)
            .map(Linked::Command)
            .map_err(|e| e.context("`http` isn't set, and the component doesn't export wasi:cli/run@0.2")),
    }
}

/// The whole chain of an engine's error in one line, for people.
pub(super) fn causes(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause.trim());
    }
    text.replace('\n', " ").chars().take(2000).collect()
}
