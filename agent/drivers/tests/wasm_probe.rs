//! Probe components: what they are given, what they may do, and how each way of ending counts.

#![cfg(feature = "wasm")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

// Each test program uses its part of it.
#[allow(dead_code, unreachable_pub)]
#[path = "wasm/bench.rs"]
mod bench;
#[allow(unreachable_pub)]
#[path = "wasm/component.rs"]
mod component;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::name::AppName;
use holdfast_core::probe_component::WasmCheck;
use holdfast_drivers::wasm::{RunAs, User};
use holdfast_drivers::{Driver, DriverError};

use bench::*;
use component::ask;

fn check(component: Digest, args: &[&str]) -> WasmCheck<Digest> {
    WasmCheck {
        name: "files/ask.wasm".into(),
        component,
        args: args.iter().map(ToString::to_string).collect(),
        env: Default::default(),
        target: None,
        timeout: Duration::from_secs(30),
        memory: 16 << 20,
    }
}

/// Runs the probe made from Rust, and gives what is wrong by its word.
async fn said(bench: &Bench, args: &[&str], target: Option<SocketAddr>) -> Result<(), String> {
    let check = check(bench.pin_bytes(ask()), args);
    bench.driver().run_probe_component(&app(), &check, target).await
}

#[tokio::test]
async fn a_probe_in_rust_asks_its_target_over_tcp_and_its_end_is_the_verdict() {
    let bench = Bench::new();
    let sick = hello("hello").replace("$health i32 (i32.const 200)", "$health i32 (i32.const 500)");
    let service = bench.service(&sick);
    let address = service.http.as_ref().unwrap().listen;
    create(&bench.driver(), &service).await;
    assert_eq!(said(&bench, &["get", "/"], Some(address)).await, Ok(()));
    let bad = said(&bench, &["get", "/healthz"], Some(address)).await.unwrap_err();
    let wanted = format!("exited with code 1: {address} said \"HTTP/1.1 500 Internal Server Error\"");
    assert_eq!(bad, wanted);
}

#[tokio::test]
async fn what_a_probe_says_last_is_the_reason_however_much_it_says() {
    let bench = Bench::new();
    let flood = "x".repeat(5000);
    let bad = said(&bench, &["say", "first", &flood, "the till has no \u{1b}[2Jpaper", "", " "], None).await;
    assert_eq!(bad.unwrap_err(), "exited with code 1: the till has no \u{fffd}[2Jpaper");
    let bad = said(&bench, &["say", &flood], None).await.unwrap_err();
    assert!(bad.starts_with("exited with code 1: xxx") && bad.len() < 400, "{bad}");
}

#[tokio::test]
async fn a_probe_knows_its_app_and_its_target_and_nothing_of_the_agents() {
    let bench = Bench::new();
    let mut check = check(bench.pin_bytes(ask()), &["environment"]);
    check.env.insert("TILL".into(), "1".into());
    let bad = bench.driver().run_probe_component(&app(), &check, Some("10.0.0.1:80".parse().unwrap())).await;
    let wanted = "exited with code 1: HOLDFAST_APP=hello HOLDFAST_TARGET=10.0.0.1:80 TILL=1";
    assert_eq!(bad.unwrap_err(), wanted);
}

#[tokio::test]
async fn a_probe_connects_to_the_loopback_and_its_target_and_is_refused_everything_else() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().to_string();
    let target: SocketAddr = "192.0.2.7:80".parse().unwrap();
    for (args, wanted) in [
        (["connect", &here], "it went well"),
        (["connect", "192.0.2.7:81"], "PermissionDenied"),
        (["connect", "192.0.2.8:80"], "PermissionDenied"),
        (["connect", "[2001:db8::1]:80"], "PermissionDenied"),
        (["listen", ""], "PermissionDenied"),
        (["datagram", ""], "PermissionDenied"),
    ] {
        let bad = said(&bench, &args, Some(target)).await.unwrap_err();
        assert_eq!(bad, format!("exited with code 1: {wanted}"), "{args:?}");
    }
    let bad = said(&bench, &["resolve"], Some(target)).await.unwrap_err();
    assert!(bad.starts_with("exited with code 1: ") && !bad.contains("well"), "no name is looked up: {bad}");
}

#[tokio::test]
async fn a_probe_that_loops_is_killed_within_its_time_and_nothing_of_it_is_left() {
    let bench = Bench::new();
    let app: AppName = "spinning".parse().unwrap();
    for (component, wanted) in [
        (bench.pin_bytes(ask()), "did not end within 500ms, and was killed: it goes round"),
        (bench.pin(&workload("loop.wat")), "did not end within 500ms, and was killed"),
    ] {
        let mut check = check(component, &["spin"]);
        check.timeout = Duration::from_millis(500);
        let bad = bench.driver().run_probe_component(&app, &check, None).await;
        assert_eq!(bad, Err(wanted.to_owned()));
    }
    assert_eq!(status_of_the_probe(&app), None);
}

#[tokio::test]
async fn a_probe_whose_caller_goes_away_is_ended() {
    let bench = Bench::new();
    let app: AppName = "left-alone".parse().unwrap();
    let driver = bench.driver();
    let check = check(bench.pin(&workload("loop.wat")), &[]);
    driver.prepare_probe_component(&check).await.unwrap();
    let limit = Duration::from_millis(300);
    tokio::time::timeout(limit, driver.run_probe_component(&app, &check, None)).await.unwrap_err();
    let gone = async {
        while status_of_the_probe(&app).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test]
async fn a_probe_that_wants_too_much_memory_or_traps_is_not_well() {
    let bench = Bench::new();
    let driver = bench.driver();
    let run = |text: &str| check(bench.pin(&workload(text)), &[]);
    // It takes 256 pages of 64 KiB, is refused the next one, and ends with 256: it could not say 0.
    let greedy = driver.run_probe_component(&app(), &run("memory.wat"), None).await.unwrap_err();
    assert!(greedy.contains("it tried to exceed its memory limit of 16777216 bytes"), "{greedy}");
    let trap = driver.run_probe_component(&app(), &run("trap.wat"), None).await.unwrap_err();
    assert!(trap.starts_with("trapped: "), "{trap}");
    // It writes a gigabyte and more to its output.
    let mut flood = run("flood.wat");
    flood.timeout = Duration::from_secs(1);
    let flood = driver.run_probe_component(&app(), &flood, None).await.unwrap_err();
    assert!(flood.len() < 500, "{flood}");
}

#[tokio::test]
async fn a_module_is_a_probe_too_and_the_code_is_compiled_once() {
    let bench = Bench::new();
    let driver = bench.driver();
    let module = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let check = check(bench.pin(module), &[]);
    driver.prepare_probe_component(&check).await.unwrap();
    let compiled = bench.compiled();
    let written = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
    let before: Vec<_> = compiled.iter().map(written).collect();
    assert_eq!(driver.run_probe_component(&app(), &check, None).await, Ok(()));
    assert_eq!(driver.run_probe_component(&app(), &check, None).await, Ok(()));
    assert_eq!(bench.compiled(), compiled);
    assert_eq!(compiled.iter().map(written).collect::<Vec<_>>(), before);
    driver.collect(&BTreeSet::from([check.component])).await;
    assert_eq!(bench.compiled(), compiled, "what is pinned stays");
    driver.collect(&BTreeSet::new()).await;
    assert!(bench.compiled().is_empty());
}

#[tokio::test]
async fn a_probe_that_is_no_command_is_refused_before_anything_runs() {
    let bench = Bench::new();
    let driver = bench.driver();
    for (text, wanted) in [
        ("(module)", "it has no function `_start`"),
        (hello("hello").as_str(), "the component doesn't export wasi:cli/run@0.2"),
        ("(modul)", "cannot be run"),
    ] {
        let check = check(bench.pin(text), &[]);
        let refused = driver.prepare_probe_component(&check).await.unwrap_err();
        assert!(matches!(&refused, DriverError::Release(why) if why.contains(wanted)), "{refused}");
        let bad = driver.run_probe_component(&app(), &check, None).await.unwrap_err();
        assert!(bad.contains(wanted), "{bad}");
    }
}

#[tokio::test]
async fn damaged_compiled_code_is_not_run_but_compiled_again() {
    let bench = Bench::new();
    let driver = bench.driver();
    let check = check(bench.pin(&workload("exit.wat")), &[]);
    driver.prepare_probe_component(&check).await.unwrap();
    let code = bench.compiled().into_iter().find(|path| path.extension().is_some_and(|e| e == "cwasm"));
    std::fs::write(code.unwrap(), b"not what it was").unwrap();
    let bad = driver.run_probe_component(&app(), &check, None).await.unwrap_err();
    // Ten for HOLDFAST_APP.
    assert_eq!(bad, "exited with code 10: ready");
}

#[tokio::test]
async fn a_probe_runs_as_the_workloads_user() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let bench = Bench::new();
    let driver = bench.driver_as(RunAs::Numbers(User { uid: 65534, gid: 65534 }));
    let mut check = check(bench.pin(&workload("loop.wat")), &[]);
    check.timeout = Duration::from_secs(30);
    let app: AppName = "as-another-user".parse().unwrap();
    let seen = async {
        loop {
            if let Some(status) = status_of_the_probe(&app) {
                let has = |line: &str| status.lines().any(|found| found.starts_with(line));
                if has("Uid:\t65534\t65534\t65534\t65534") && has("Seccomp:\t2") && has("NoNewPrivs:\t1") {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = seen => {}
        ended = driver.run_probe_component(&app, &check, None) => panic!("it was never seen as another user: {ended:?}"),
    }
}

/// What the kernel says of the probe of this app, if one runs.
fn status_of_the_probe(app: &AppName) -> Option<String> {
    let parent = format!("PPid:\t{}", std::process::id());
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_it = command.contains(&format!("wasm-probe\0{app}\0"));
        (is_it && status.lines().any(|line| line == parent)).then_some(status)
    })
}
