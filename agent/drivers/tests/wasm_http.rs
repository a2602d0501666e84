//! The WebAssembly driver and what serves wasi:http, as clients see it.

#![cfg(feature = "wasm")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

// Each test program uses its part of it.
#[allow(dead_code, unreachable_pub)]
#[path = "wasm/bench.rs"]
mod bench;

use std::fs;
use std::time::Duration;

use holdfast_core::health::Health;
use holdfast_core::observe::Observed;
use holdfast_core::plan::Action;
use holdfast_core::release::WasmWorkload;
use holdfast_drivers::{Driver, DriverError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

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
    assert_eq!(driver.health(&release).await, Health::Healthy);
    assert_eq!(driver.address_of(&release, &key(), 80).await, Some(address));
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
        assert_eq!(driver.health(&release).await, Health::Healthy);
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
async fn no_request_is_refused_while_one_release_after_the_other_comes() {
    let bench = Bench::new();
    let driver = bench.driver();
    let first = bench.service(&hello("release 0\\n"));
    let address = first.http.as_ref().unwrap().listen;
    create(&driver, &first).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !*stopped.borrow() {
                    answers.push(get(address, "/").await);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                answers
            })
        })
        .collect();
    let mut pids = vec![bench.pid().unwrap()];
    for number in 1..=8 {
        let text = hello(&format!("release {number}\\n"));
        let workload = WasmWorkload { http: first.http.clone(), ..bench.command(&text) };
        let release = release(&workload);
        driver.prepare(&release).await.unwrap();
        act(&driver, Action::Recreate, Some(&release)).await.unwrap();
        pids.push(bench.pid().unwrap());
        let answer = get(address, "/").await.unwrap();
        assert!(answer.contains(&format!("release {number}\n")), "{answer}");
    }
    pids.dedup();
    assert_eq!(pids.len(), 9, "a process for each release");
    stop.send(true).unwrap();
    let mut asked = 0;
    for client in clients {
        for answer in client.await.unwrap() {
            asked += 1;
            let answer = answer.unwrap();
            let whole = answer.starts_with("HTTP/1.1 200 OK") && answer.contains("release ");
            assert!(whole, "after {asked} requests: {answer:?}");
        }
    }
    assert!(asked > 8, "the clients asked only {asked} times");
    // With the last one gone, nobody listens: no process holds on to the socket.
    act(&driver, Action::Remove, None).await.unwrap();
    assert!(get(address, "/").await.is_err());
}

#[tokio::test]
async fn a_release_at_another_address_listens_there_and_nowhere_else() {
    let bench = Bench::new();
    let driver = bench.driver();
    let first = bench.service(&hello("one\\n"));
    let second = bench.service(&hello("two\\n"));
    create(&driver, &first).await;
    create(&driver, &second).await;
    let answer = get(second.http.unwrap().listen, "/").await.unwrap();
    assert!(answer.contains("two\n"), "{answer}");
    assert!(get(first.http.unwrap().listen, "/").await.is_err());
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
async fn requests_in_flight_are_finished_when_another_release_comes() {
    let bench = Bench::new();
    let driver = bench.driver();
    // It counts to a number that takes a while, and then answers.
    let wait = "(local.set $response (i32.const 60000000)) (loop $down 
        (local.set $response (i32.sub (local.get $response) (i32.const 1)))
        (br_if $down (local.get $response)))";
    let old = bench.service(&hello_that(wait));
    let address = old.http.as_ref().unwrap().listen;
    create(&driver, &old).await;
    let (begun, begin) = tokio::sync::oneshot::channel();
    let request = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        begun.send(()).unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        answer
    });
    begin.await.unwrap();
    let new = release(&WasmWorkload { component: bench.pin(&hello("new")), ..old });
    driver.prepare(&new).await.unwrap();
    act(&driver, Action::Recreate, Some(&new)).await.unwrap();
    assert!(request.await.unwrap().starts_with("HTTP/1.1 200 "));
    assert!(get(address, "/").await.unwrap().contains("new"));
}
