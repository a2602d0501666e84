//! The WebAssembly driver with real processes: what a box sees of it.

#![cfg(feature = "wasm")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

// Each test program uses its part of it.
#[allow(dead_code, unreachable_pub)]
#[path = "wasm/bench.rs"]
mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::health::Health;
use holdfast_core::observe::Observed;
use holdfast_core::plan::Action;
use holdfast_core::release::{
    EnvValue, HttpCheck, Restart, SecretRef, WasmDir, WasmHttp, WasmLimits, WasmWorkload,
};
use holdfast_drivers::{Driver, DriverError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use bench::*;

#[tokio::test]
async fn a_component_answers_over_http() {
    let bench = Bench::new();
    let driver = bench.driver();
    let service = bench.service(&hello("Good morning\\n"));
    let address = service.http.as_ref().unwrap().listen;
    let release = create(&driver, &service).await;
    let answer = get(address, "/").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("Good morning\n"), "{answer}");
    assert_eq!(observed(&driver, &release).await, Observed::Same);
    assert_eq!(driver.probe(&release).await, Health::Healthy);
    let check = HttpCheck::Target { target: key(), port: 80, path: "/healthz".into() };
    let reached = driver.address_of(&release, &check).await;
    assert_eq!(reached, Some(format!("http://{address}/healthz")));
}

#[tokio::test]
async fn head_has_no_body_and_the_connection_stays_for_the_next_request() {
    let bench = Bench::new();
    let service = bench.service(&hello("Good morning\\n"));
    let address = service.http.as_ref().unwrap().listen;
    create(&bench.driver(), &service).await;
    let requests =
        "HEAD / HTTP/1.1\r\nHost: test\r\n\r\nGET /x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let answers = ask(address, requests).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("Good morning").count(), 1, "{answers}");
    let old = ask(address, "GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(old.contains("Good morning"), "{old}");
}

#[tokio::test]
async fn a_status_of_the_component_reaches_the_client() {
    let bench = Bench::new();
    let sick = hello("hello").replace("$health i32 (i32.const 200)", "$health i32 (i32.const 500)");
    let service = bench.service(&sick);
    let address = service.http.as_ref().unwrap().listen;
    create(&bench.driver(), &service).await;
    assert!(get(address, "/healthz").await.unwrap().starts_with("HTTP/1.1 500 "));
    assert!(get(address, "/").await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_guest_that_loops_or_traps_harms_only_its_own_request() {
    for first in ["(loop $spin (br $spin))", "unreachable"] {
        let bench = Bench::new();
        let driver = bench.driver();
        let service = bench.service(&hello_that(first));
        let address = service.http.as_ref().unwrap().listen;
        let release = create(&driver, &service).await;
        let bad = tokio::spawn(async move { get(address, "/").await });
        for _ in 0..10 {
            assert!(get(address, "/healthz").await.unwrap().starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(driver.probe(&release).await, Health::Healthy);
        if first == "unreachable" {
            assert!(bad.await.unwrap().unwrap().starts_with("HTTP/1.1 500 "));
        }
    }
}

#[tokio::test]
async fn clients_that_do_not_go_on_keep_nobody_else_waiting() {
    let bench = Bench::new();
    let service = bench.service(&hello("hello"));
    let address = service.http.as_ref().unwrap().listen;
    create(&bench.driver(), &service).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Le").await.unwrap();
        slow.push(stream);
    }
    assert!(get(address, "/").await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_request_too_large_is_refused_before_it_is_sent() {
    let bench = Bench::new();
    let service = bench.service(&hello("hello"));
    let address = service.http.as_ref().unwrap().listen;
    create(&bench.driver(), &service).await;
    let body = "POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n";
    assert!(ask(address, body).await.unwrap().starts_with("HTTP/1.1 413 "));
    let long = "x".repeat(100_000);
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX: {long}\r\n\r\n");
    assert!(!ask(address, &head).await.unwrap_or_default().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_workload_outlives_the_agent_and_is_found_again() {
    let bench = Bench::new();
    let service = bench.service(&hello("still here"));
    let address = service.http.as_ref().unwrap().listen;
    let first = bench.driver();
    let release = create(&first, &service).await;
    let pid = bench.pid().unwrap();
    drop(first);
    assert!(get(address, "/").await.unwrap().contains("still here"));
    let second = bench.driver();
    assert_eq!(second.apps().await.unwrap(), [app()]);
    assert_eq!(observed(&second, &release).await, Observed::Same);
    act(&second, Action::Create, Some(&release)).await.unwrap();
    assert_eq!(bench.pid(), Some(pid));
}

#[tokio::test]
async fn two_agents_that_start_at_once_make_one_process() {
    let bench = Bench::new();
    let service = bench.service(&hello("one"));
    let release = release(&service);
    let (one, two) = (bench.driver(), bench.driver());
    one.prepare(&release).await.unwrap();
    let (first, second) =
        tokio::join!(act(&one, Action::Create, Some(&release)), act(&two, Action::Create, Some(&release)),);
    first.unwrap();
    second.unwrap();
    let folder = bench.run_dir().join("hello").to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains(&folder))
    });
    assert_eq!(processes.count(), 1);
}

#[tokio::test]
async fn a_process_that_is_killed_is_reported_and_absent() {
    let bench = Bench::new();
    let driver = bench.driver();
    let release = create(&driver, &bench.service(&hello("hello"))).await;
    let (events, mut heard) = mpsc::channel(16);
    Arc::clone(&driver).watch(events);
    let pid = bench.pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(heard.recv().await.unwrap().app, Some(app()));
    assert_eq!(observed(&driver, &release).await, Observed::Absent);
    // The one that comes next is watched too.
    act(&driver, Action::Create, Some(&release)).await.unwrap();
    let pid = bench.pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(heard.recv().await.unwrap().app, Some(app()));
}

#[tokio::test]
async fn another_release_takes_the_place_of_the_one_before() {
    let bench = Bench::new();
    let driver = bench.driver();
    let old = bench.service(&hello("old"));
    let address = old.http.as_ref().unwrap().listen;
    create(&driver, &old).await;
    let new = release(&WasmWorkload { component: bench.pin(&hello("new")), ..old });
    driver.prepare(&new).await.unwrap();
    assert!(matches!(observed(&driver, &new).await, Observed::Drift { recreate: true, .. }));
    act(&driver, Action::Recreate, Some(&new)).await.unwrap();
    assert!(get(address, "/").await.unwrap().contains("new"));
    assert_eq!(observed(&driver, &new).await, Observed::Same);
}

#[tokio::test]
async fn what_cannot_start_leaves_what_runs_alone() {
    let bench = Bench::new();
    let driver = bench.driver();
    let old = bench.service(&hello("old"));
    let address = old.http.as_ref().unwrap().listen;
    create(&driver, &old).await;
    let broken = release(&WasmWorkload { component: bench.pin("(module (func (export"), ..old });
    assert!(matches!(driver.prepare(&broken).await, Err(DriverError::Release(_))));
    assert!(act(&driver, Action::Recreate, Some(&broken)).await.is_err());
    assert!(get(address, "/").await.unwrap().contains("old"));
}

#[tokio::test]
async fn removing_leaves_the_volumes_and_nothing_else() {
    let bench = Bench::new();
    let driver = bench.driver();
    let dirs = vec![WasmDir { guest: "/data".into(), volume: "data".parse().unwrap() }];
    let job = WasmWorkload { dirs, ..bench.job(&workload("volume.wat")) };
    let release = create(&driver, &job).await;
    wait_for_health(&driver, &release, |health| *health == Health::Healthy).await;
    wait_for_end(bench.pid().unwrap()).await;
    act(&driver, Action::Remove, None).await.unwrap();
    act(&driver, Action::Remove, None).await.unwrap();
    assert_eq!(fs::read_dir(bench.run_dir()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(bench.state_dir().join("wasm/ended")).unwrap().count(), 0);
    assert!(bench.state_dir().join("wasm/volumes/hello/data/mark").exists());
    assert_eq!(driver.apps().await.unwrap(), []);
}

#[tokio::test]
async fn removing_ends_a_guest_that_loops() {
    let bench = Bench::new();
    let driver = bench.driver();
    let release = create(&driver, &bench.command(&workload("loop.wat"))).await;
    let pid = bench.pid().unwrap();
    assert_eq!(driver.probe(&release).await, Health::Healthy);
    act(&driver, Action::Remove, None).await.unwrap();
    wait_for_end(pid).await;
    assert_eq!(observed(&driver, &release).await, Observed::Absent);
}

#[tokio::test]
async fn a_process_that_is_stopped_in_its_tracks_is_drift_and_is_replaced() {
    let bench = Bench::new();
    let driver = bench.driver();
    let release = create(&driver, &bench.service(&hello("hello"))).await;
    let pid = bench.pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGSTOP).unwrap();
    assert!(matches!(observed(&driver, &release).await, Observed::Drift { recreate: true, .. }));
    act(&driver, Action::Recreate, Some(&release)).await.unwrap();
    assert_ne!(bench.pid(), Some(pid));
    assert_eq!(observed(&driver, &release).await, Observed::Same);
}

#[tokio::test]
async fn a_job_runs_once_and_its_end_is_remembered() {
    let bench = Bench::new();
    let driver = bench.driver();
    let good = create(&driver, &bench.job(&workload("exit.wat"))).await;
    wait_for_health(&driver, &good, |health| *health == Health::Healthy).await;
    let pid = bench.pid().unwrap();
    wait_for_end(pid).await;
    let driver = bench.driver();
    assert_eq!(driver.probe(&good).await, Health::Healthy);
    assert_eq!(observed(&driver, &good).await, Observed::Same);
    act(&driver, Action::Create, Some(&good)).await.unwrap();
    assert_eq!(bench.pid(), Some(pid));
    let log = driver.logs(&app(), 10).await.unwrap();
    assert!(log.contains(&"ready".to_owned()), "{log:?}");
}

#[tokio::test]
async fn a_job_that_fails_says_its_exit_code() {
    let bench = Bench::new();
    let driver = bench.driver();
    let env = BTreeMap::from([("A".to_owned(), EnvValue::Plain("b".into()))]);
    let args = vec!["x".into(), "y".into()];
    let bad = create(&driver, &WasmWorkload { args, env, ..bench.job(&workload("exit.wat")) }).await;
    let health = wait_for_health(&driver, &bad, |health| matches!(health, Health::Unhealthy { .. })).await;
    assert!(matches!(&health, Health::Unhealthy { reason } if reason.contains("code 12")), "{health:?}");
    assert_eq!(observed(&driver, &bad).await, Observed::Same);
}

#[tokio::test]
async fn a_command_that_keeps_trapping_is_unhealthy_and_started_again() {
    let bench = Bench::new();
    let driver = bench.driver();
    let release = create(&driver, &bench.command(&workload("trap.wat"))).await;
    let health = wait_for_health(
        &driver,
        &release,
        |health| matches!(health, Health::Unhealthy { reason } if reason.contains("2 times")),
    )
    .await;
    assert!(matches!(&health, Health::Unhealthy { reason } if reason.contains("unreachable")), "{health:?}");
}

#[tokio::test]
async fn a_command_restarted_on_failure_is_not_restarted_after_success() {
    let bench = Bench::new();
    let driver = bench.driver();
    let once = WasmWorkload { restart: Restart::OnFailure, ..bench.command(&workload("exit.wat")) };
    let release = create(&driver, &once).await;
    wait_for_end(bench.pid().unwrap()).await;
    assert_eq!(driver.probe(&release).await, Health::Healthy);
}

#[tokio::test]
async fn memory_ends_at_the_limit() {
    let bench = Bench::new();
    let driver = bench.driver();
    let limits = WasmLimits { memory: 2 << 20, cpu_millis: None };
    let greedy = WasmWorkload { limits, ..bench.job(&workload("memory.wat")) };
    let release = create(&driver, &greedy).await;
    let health =
        wait_for_health(&driver, &release, |health| matches!(health, Health::Unhealthy { .. })).await;
    // 2 MiB are 32 pages.
    assert!(matches!(&health, Health::Unhealthy { reason } if reason.contains("code 32")), "{health:?}");
}

#[tokio::test]
async fn a_share_of_the_processor_is_a_limit() {
    let bench = Bench::new();
    let driver = bench.driver();
    let limits = WasmLimits { memory: 16 << 20, cpu_millis: Some(100) };
    let release = create(&driver, &WasmWorkload { limits, ..bench.command(&workload("loop.wat")) }).await;
    let pid = bench.pid().unwrap();
    let begun = tokio::time::Instant::now();
    let before = cpu_ticks(pid);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // USER_HZ is 100 on every Linux that this runs on.
    let used = Duration::from_millis((cpu_ticks(pid) - before) * 10);
    assert!(used < begun.elapsed().mul_f64(0.4), "{used:?} of {:?}", begun.elapsed());
    assert_eq!(driver.probe(&release).await, Health::Healthy);
}

fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn a_workload_without_requests_is_not_woken() {
    let bench = Bench::new();
    let service = bench.service(&hello("hello"));
    let address = service.http.as_ref().unwrap().listen;
    create(&bench.driver(), &service).await;
    get(address, "/").await.unwrap();
    let pid = bench.pid().unwrap();
    // What was begun comes to rest: timers of the connection that has just ended.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = wake_ups(pid);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(wake_ups(pid) - before < 20, "{} wake-ups", wake_ups(pid) - before);
}

fn wake_ups(pid: i32) -> u64 {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap_or("0 0");
        sum += line.split_whitespace().last().unwrap().parse::<u64>().unwrap();
    }
    sum
}

#[tokio::test]
async fn a_flooded_log_stays_small() {
    let bench = Bench::new();
    let driver = bench.driver();
    create(&driver, &bench.command(&workload("flood.wat"))).await;
    let pid = bench.pid().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let log = driver.logs(&app(), 100_000).await.unwrap();
    assert!(!log.is_empty());
    assert!(log.iter().map(String::len).sum::<usize>() <= 256 << 10);
    assert!(log.iter().all(|line| line.len() <= 4096));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    assert!(resident.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() < 100 << 10, "{resident}");
    let on_disk: u64 = fs::read_dir(bench.run_dir().join("hello"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk < 64 << 10);
}

#[tokio::test]
async fn compiled_code_that_was_tampered_with_is_not_loaded() {
    let bench = Bench::new();
    let service = bench.service(&hello("genuine"));
    let release = release(&service);
    bench.driver().prepare(&release).await.unwrap();
    let path = bench.compiled().into_iter().find(|path| path.extension().unwrap() == "cwasm").unwrap();
    let mut code = fs::read(&path).unwrap();
    let at = code.windows(7).position(|window| window == b"genuine").unwrap();
    code[at..at + 7].copy_from_slice(b"altered");
    fs::write(&path, &code).unwrap();
    act(&bench.driver(), Action::Create, Some(&release)).await.unwrap();
    let answer = get(service.http.unwrap().listen, "/").await.unwrap();
    assert!(answer.contains("genuine"), "{answer}");
}

#[tokio::test]
async fn compiled_code_of_another_name_is_not_loaded() {
    let bench = Bench::new();
    let (good, evil) = (bench.service(&hello("good")), bench.service(&hello("evil")));
    let driver = bench.driver();
    driver.prepare(&release(&evil)).await.unwrap();
    let [code, mac] = bench.compiled().try_into().unwrap();
    driver.prepare(&release(&good)).await.unwrap();
    for path in bench.compiled() {
        if path != code && path != mac {
            let other = if path.extension().unwrap() == "mac" { &mac } else { &code };
            fs::copy(other, &path).unwrap();
        }
    }
    create(&driver, &good).await;
    assert!(get(good.http.unwrap().listen, "/").await.unwrap().contains("good"));
}

#[tokio::test]
async fn code_compiled_by_another_engine_is_compiled_again() {
    let bench = Bench::new();
    let service = bench.service(&hello("hello"));
    let driver = bench.driver();
    let release = release(&service);
    driver.prepare(&release).await.unwrap();
    let path = bench.compiled().into_iter().find(|path| path.extension().unwrap() == "cwasm").unwrap();
    // Ours by its keyed digest, and yet nothing that this engine takes.
    let text = fs::read(&path).unwrap();
    let at = text.windows(4).position(|window| window == b"48.0").unwrap_or(0);
    let mut other = text.clone();
    other[at] = b'1';
    fs::write(&path, &other).unwrap();
    fs::write(format!("{}.mac", path.display()), mac_of(&path)).unwrap();
    act(&driver, Action::Create, Some(&release)).await.unwrap();
    assert!(get(service.http.unwrap().listen, "/").await.unwrap().contains("hello"));
}

fn mac_of(path: &std::path::Path) -> Vec<u8> {
    use hmac::{Hmac, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&[7; 32]).unwrap();
    mac.update(b"holdfast compiled wasm 1\0");
    mac.update(path.file_name().unwrap().as_encoded_bytes());
    mac.update(b"\0");
    mac.update(&fs::read(path).unwrap());
    mac.finalize().into_bytes().to_vec()
}

#[tokio::test]
async fn only_compiled_code_that_may_still_run_is_kept() {
    let bench = Bench::new();
    let driver = bench.driver();
    let (keep, drop) = (bench.service(&hello("keep")), bench.service(&hello("drop")));
    driver.prepare(&release(&keep)).await.unwrap();
    let kept = bench.compiled();
    driver.prepare(&release(&drop)).await.unwrap();
    assert_eq!(bench.compiled().len(), 4);
    driver.collect(&BTreeSet::from([keep.component])).await.unwrap();
    assert_eq!(bench.compiled(), kept);
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_the_reason() {
    let bench = Bench::new();
    let driver = bench.driver();
    let secret = EnvValue::Secret { secret_ref: SecretRef { name: "db".into(), key: "password".into() } };
    let http = Some(WasmHttp { listen: free_address() });
    let cases = [
        (bench.command("not wasm"), "sha256:"),
        (bench.command("\0asm\u{1}\0\0\0garbage"), "sha256:"),
        (bench.command(&workload("strange.wat")), "nowhere"),
        (bench.command("(module)"), "_start"),
        (bench.command(&hello("hello")), "wasi:cli/run"),
        (bench.command("(component)"), "wasi:cli/run"),
        (bench.service("(component)"), "wasi:http/incoming-handler"),
        (WasmWorkload { http, ..bench.command(&workload("exit.wat")) }, "component"),
        (
            WasmWorkload {
                env: BTreeMap::from([("PASSWORD".to_owned(), secret)]),
                ..bench.command(&workload("exit.wat"))
            },
            "no source of secrets",
        ),
    ];
    for (workload, reason) in cases {
        match driver.prepare(&release(&workload)).await {
            Err(DriverError::Release(why)) => assert!(why.contains(reason), "{why:?} lacks {reason:?}"),
            other => panic!("{other:?} instead of {reason:?}"),
        }
    }
}

#[tokio::test]
async fn content_that_is_damaged_is_not_blamed_on_the_release() {
    let bench = Bench::new();
    let job = bench.job(&workload("exit.wat"));
    let path = bench.dir.path().join("content/sha256").join(job.component.to_hex());
    fs::write(&path, "(module)").unwrap();
    let refused = bench.driver().prepare(&release(&job)).await;
    assert!(matches!(&refused, Err(DriverError::Runtime(why)) if why.contains("damaged")), "{refused:?}");
    fs::remove_file(&path).unwrap();
    assert!(matches!(bench.driver().prepare(&release(&job)).await, Err(DriverError::Runtime(_))));
}

#[tokio::test]
async fn a_port_in_use_is_said_and_tried_again_later() {
    let bench = Bench::new();
    let driver = bench.driver();
    let service = bench.service(&hello("hello"));
    let address = service.http.as_ref().unwrap().listen;
    let taken = std::net::TcpListener::bind(address).unwrap();
    let release = release(&service);
    driver.prepare(&release).await.unwrap();
    let refused = act(&driver, Action::Create, Some(&release)).await;
    assert!(
        matches!(&refused, Err(DriverError::Runtime(why)) if why.contains(&address.to_string())),
        "{refused:?}"
    );
    assert_eq!(observed(&driver, &release).await, Observed::Absent);
    drop(taken);
    act(&driver, Action::Create, Some(&release)).await.unwrap();
    assert!(get(address, "/").await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn leftovers_of_a_process_that_is_gone_stand_in_nobodys_way() {
    let bench = Bench::new();
    let driver = bench.driver();
    let service = bench.service(&hello("hello"));
    let release = create(&driver, &service).await;
    let pid = bench.pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    wait_for_end(pid).await;
    // The number belongs to another process now: this one.
    let path = bench.run_dir().join("hello/workload.json");
    let record = fs::read_to_string(&path).unwrap();
    let record = record.replace(&format!("\"pid\":{pid}"), &format!("\"pid\":{}", std::process::id()));
    fs::write(&path, record).unwrap();
    assert_eq!(observed(&driver, &release).await, Observed::Absent);
    act(&driver, Action::Create, Some(&release)).await.unwrap();
    assert!(get(service.http.unwrap().listen, "/").await.unwrap().starts_with("HTTP/1.1 200 "));
}
