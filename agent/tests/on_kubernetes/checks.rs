//! Health checks that the agent itself asks: of a workload's pods, at the address that the cluster gives them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;

use crate::cluster_box::{ClusterBox, deployment};
use crate::support::kubernetes::{ControlPlane, POD_IP};

/// An address of the loopback that nothing else of the tests is at.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 87, 42);

/// A web server that answers what it is told to, in the stead of a pod. It ends with the tests.
struct Answers {
    port: u16,
    code: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Answers {
    fn at(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (code, asked) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let (its_code, its_asked) = (Arc::clone(&code), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if answer(stream, its_code.load(Ordering::SeqCst)) {
                    its_asked.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Answers { port, code, asked }
    }
}

/// Answers one request; whether it was for the path of the check.
fn answer(stream: TcpStream, code: u16) -> bool {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    let mut line = String::new();
    let _ = reader.read_line(&mut first);
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
        line.clear();
    }
    let text = format!("HTTP/1.1 {code} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = reader.into_inner().write_all(text.as_bytes());
    first.starts_with("GET /healthz ")
}

fn health(port: u16) -> String {
    format!(
        "health:\n  startup: 2s\n  deadline: 1m\n  soak: 300ms\n  checks: [ {{ http: {{ target: Deployment/web, port: {port}, \
         path: /healthz }} }} ]"
    )
}

#[test]
fn a_check_of_a_workload_asks_a_ready_pod_at_its_own_address() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "target");
    let web = |version: &str| {
        let plain = deployment("web", version, "ready");
        plain.replace("annotations: {", &format!("annotations: {{ {POD_IP}: {ADDRESS},"))
    };
    let server = Answers::at(ADDRESS.into());
    shop.write(&health(server.port), &web("1"));
    shop.start(&[]);
    shop.converge();
    assert!(server.asked.load(Ordering::SeqCst) > 0, "nobody asked the pod");

    // The pods are ready and their program says that it is ill: that decides.
    server.code.store(503, Ordering::SeqCst);
    shop.write(&health(server.port), &web("2"));
    shop.push();
    plane.until(&shop.path("deployments/web"), |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/web:2"
    });
    shop.wait_app("rolled back", |app| {
        app.phase == "RolledBack" && app.held.as_ref().is_some_and(|held| held.cause.contains("503"))
    });
    server.code.store(200, Ordering::SeqCst);
    plane.until(&shop.path("deployments/web"), |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/web:1"
            && web["status"]["availableReplicas"] == 1
    });
    shop.write(&health(server.port), &web("3"));
    shop.converge();
}
