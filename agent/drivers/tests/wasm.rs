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
use holdfast_core::name::ObjectKey;
use holdfast_core::observe::Observed;
use holdfast_core::plan::Action;
use holdfast_core::release::{
    EnvValue, Object, Restart, SecretRef, WasmDir, WasmHttp, WasmLimits, WasmWorkload,
};
use holdfast_drivers::wasm::{RunAs, User};
use holdfast_drivers::{Driver, DriverError};
use tokio::sync::mpsc;

use bench::*;

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

    // What is left is seen as the app's, and goes only when that is asked for.
    assert_eq!(driver.apps().await.unwrap(), [app()]);
    let volume = ObjectKey::new("Volume", "data");
    let seen = driver.observe(&app(), None).await.unwrap();
    assert_eq!(seen, [(volume.clone(), Observed::Extra { release: None })].into());
    act_on(&driver, Action::Remove, &volume, None).await.unwrap();
    assert!(bench.state_dir().join("wasm/volumes/hello/data/mark").exists());
    act_on(&driver, Action::Purge, &volume, None).await.unwrap();
    act_on(&driver, Action::Purge, &volume, None).await.unwrap();
    assert!(!bench.state_dir().join("wasm/volumes/hello").exists());
    assert_eq!(driver.apps().await.unwrap(), []);
}

#[tokio::test]
async fn a_volume_is_an_object_that_is_made_before_the_workload_that_uses_it() {
    let bench = Bench::new();
    let driver = bench.driver();
    let dirs = vec![WasmDir { guest: "/data".into(), volume: "data".parse().unwrap() }];
    let mut release = release(&WasmWorkload { dirs, ..bench.job(&workload("volume.wat")) });
    let volume = ObjectKey::new("Volume", "data");
    release.objects.insert(0, Object { key: volume.clone(), spec: serde_json::json!({}) });
    driver.check(&release).unwrap();
    let seen = driver.observe(&app(), Some(&release)).await.unwrap();
    assert_eq!((&seen[&volume], &seen[&key()]), (&Observed::Absent, &Observed::Absent));
    driver.prepare(&release).await.unwrap();
    for object in &release.objects {
        act_on(&driver, Action::Create, &object.key, Some(&release)).await.unwrap();
    }
    wait_for_health(&driver, &release, |health| *health == Health::Healthy).await;
    let seen = driver.observe(&app(), Some(&release)).await.unwrap();
    assert!(seen.values().all(|seen| *seen == Observed::Same), "{seen:?}");
}

#[tokio::test]
async fn removing_ends_a_guest_that_loops() {
    let bench = Bench::new();
    let driver = bench.driver();
    let release = create(&driver, &bench.command(&workload("loop.wat"))).await;
    let pid = bench.pid().unwrap();
    assert_eq!(driver.health(&release).await, Health::Healthy);
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
    // The signal reaches one thread after the other.
    while fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .any(|task| !fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") T ")))
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
    assert_eq!(driver.health(&good).await, Health::Healthy);
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
    assert_eq!(driver.health(&release).await, Health::Healthy);
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
    let (bench, other) = (Bench::new(), Bench::new());
    let driver = bench.driver();
    let limits = WasmLimits { memory: 16 << 20, cpu_millis: Some(50) };
    let release = create(&driver, &WasmWorkload { limits, ..bench.command(&workload("loop.wat")) }).await;
    create(&other.driver(), &other.command(&workload("loop.wat"))).await;
    let (limited, free) = (bench.pid().unwrap(), other.pid().unwrap());
    let begun = tokio::time::Instant::now();
    let before = cpu_time(limited);
    // On a busy machine nobody gets much: what counts is that the other one had its second meanwhile.
    while cpu_time(free) < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let used = cpu_time(limited) - before;
    let twice = begun.elapsed().mul_f64(0.1) + Duration::from_millis(50);
    assert!(used < twice, "{used:?} of {:?}", begun.elapsed());
    assert_eq!(driver.health(&release).await, Health::Healthy);
}

/// Processor time of a process. USER_HZ is 100 on every Linux that this runs on.
fn cpu_time(pid: i32) -> Duration {
    Duration::from_millis(cpu_ticks(pid) * 10)
}

fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
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
    driver.collect(&BTreeSet::from([keep.component])).await;
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

#[tokio::test]
async fn a_workload_has_given_up_what_it_does_not_need() {
    let bench = Bench::new();
    let service = bench.service(&hello("hello"));
    create(&bench.driver(), &service).await;
    let pid = bench.pid().unwrap();
    get(service.http.unwrap().listen, "/").await.unwrap();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{status} lacks {line}");
        }
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), std::path::Path::new("/"));
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap(), std::path::Path::new("/dev/null"));
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(), b"");
}

#[tokio::test]
async fn where_the_agent_is_root_workloads_are_somebody_else() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let bench = Bench::new();
    let driver = bench.driver_as(RunAs::Numbers(User { uid: 65_534, gid: 65_534 }));
    let dirs = vec![WasmDir { guest: "/data".into(), volume: "data".parse().unwrap() }];
    let job = WasmWorkload { dirs: dirs.clone(), ..bench.job(&workload("volume.wat")) };
    let release = create(&driver, &job).await;
    wait_for_health(&driver, &release, |health| *health == Health::Healthy).await;
    wait_for_end(bench.pid().unwrap()).await;
    let mark = bench.state_dir().join("wasm/volumes/hello/data/mark");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(mark).unwrap()), 65_534);
    act(&driver, Action::Remove, None).await.unwrap();
    let service = WasmWorkload { dirs, ..bench.service(&hello("hello")) };
    let release = create(&driver, &service).await;
    assert!(get(service.http.unwrap().listen, "/").await.unwrap().contains("hello"));
    let status = fs::read_to_string(format!("/proc/{}/status", bench.pid().unwrap())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert_eq!(driver.health(&release).await, Health::Healthy);
}

#[tokio::test]
async fn a_link_in_the_place_of_a_volume_is_refused_and_nothing_behind_it_is_made_or_given_away() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    let is_root = nix::unistd::Uid::effective().is_root();
    let run_as = if is_root { RunAs::Numbers(User { uid: 65_534, gid: 65_534 }) } else { RunAs::Agent };
    // What leads away: the volume, or the folder of the app's volumes.
    for link in ["hello/data", "hello"] {
        let bench = Bench::new();
        let driver = bench.driver_as(run_as.clone());
        let outside = bench.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
        let link = bench.state_dir().join("wasm/volumes").join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&outside, &link).unwrap();
        let before = fs::metadata(&outside).unwrap();

        let dirs = vec![WasmDir { guest: "/data".into(), volume: "data".parse().unwrap() }];
        let job = WasmWorkload { dirs, ..bench.job(&workload("volume.wat")) };
        let release = release(&job);
        driver.prepare(&release).await.unwrap();
        let volume = ObjectKey::new("Volume", "data");
        for refused in [
            act_on(&driver, Action::Create, &volume, Some(&release)).await,
            act(&driver, Action::Create, Some(&release)).await,
        ] {
            assert!(
                matches!(&refused, Err(DriverError::Runtime(why)) if why.contains("symbolic link")),
                "{}: {refused:?}",
                link.display()
            );
        }
        assert_eq!(bench.pid(), None, "nothing was started");
        let after = fs::metadata(&outside).unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(link.is_symlink());

        // Once the link is gone the app comes up.
        fs::remove_file(&link).unwrap();
        act_on(&driver, Action::Create, &volume, Some(&release)).await.unwrap();
        act(&driver, Action::Create, Some(&release)).await.unwrap();
        wait_for_health(&driver, &release, |health| *health == Health::Healthy).await;
    }
}
