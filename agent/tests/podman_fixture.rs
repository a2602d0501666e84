//! The tests' own podman does what it promises: it runs containers, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::podman::Podman;
use support::podman_image::{Image, Wishes};
use support::podman_traces::{Before, processes};
use support::ports::free_port;

#[test]
fn an_image_is_the_same_each_time_and_another_for_another_version() {
    let one = Image::webapp("1");
    assert_eq!(one.digest(), Image::webapp("1").digest());
    assert_ne!(one.digest(), Image::webapp("2").digest());
    assert_eq!(one.blobs().len(), 2);
}

#[test]
fn a_container_of_an_image_made_from_scratch_answers_and_nothing_of_it_stays() {
    let before = Before::look();
    let (dir, store);
    {
        let mut podman = Podman::start();
        (dir, store) = (podman.dir().to_owned(), podman.dir().join("root"));
        let image = Image::new(&Wishes { version: "1".into(), shell: true, ..Wishes::default() });
        podman.load(&image, &format!("registry.example/web@{}", image.digest()));
        let (host, bridge) = (free_port(), free_port());
        create(
            &podman,
            &json!({
                "name": "host", "image": image.id(), "netns": { "nsmode": "host" }, "labels": { "app": "web" },
                "env": { "PORT": host.to_string(), "ANSWER": "by host" },
            }),
        );
        create(
            &podman,
            &json!({
                "name": "bridge", "image": image.id(), "netns": { "nsmode": "bridge" }, "env": { "ANSWER": "by bridge" },
                "portmappings": [{ "container_port": 8080, "host_port": bridge, "protocol": "tcp" }],
            }),
        );
        for name in ["host", "bridge"] {
            assert_eq!(podman.api("POST", &format!("/containers/{name}/start"), None).0, 204, "{name}");
        }
        wait_for(host, "by host");
        wait_for(bridge, "by bridge");
        let ours = podman.containers("app=web");
        assert_eq!((ours.len(), ours[0].state.as_str()), (1, "running"));
        assert_eq!(ours[0].image_id, image.id());

        // The service's death is not the containers'.
        podman.kill_service();
        wait_for(host, "by host");
        podman.restart_service();
        assert_eq!(podman.containers("app=web")[0].pid, ours[0].pid);
        assert!(podman.cli(&["ps", "--quiet"]).stdout.len() > 20);

        // A reboot is.
        podman.reboot();
        assert!(podman.containers("").iter().all(|container| container.pid == 0));
        assert_eq!(podman.api("POST", "/containers/host/start", None).0, 204);
        assert_eq!(podman.api("POST", "/containers/bridge/start", None).0, 204);
        wait_for(bridge, "by bridge");

        // A service killed within a start leaves half of a container, or all of it.
        for after in [30, 60, 90] {
            let name = format!("torn-{after}");
            let ports = json!([{ "container_port": 8080, "host_port": free_port(), "protocol": "tcp" }]);
            let netns = json!({ "nsmode": "bridge" });
            let spec = json!({ "name": name, "image": image.id(), "netns": netns, "portmappings": ports });
            create(&podman, &spec);
            let mut stream = std::os::unix::net::UnixStream::connect(podman.socket()).unwrap();
            let request = format!("POST /v4.0.0/libpod/containers/{name}/start HTTP/1.0\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(after));
            podman.restart_service();
            podman.api("DELETE", &format!("/containers/{name}?force=true&timeout=0"), None);
        }

        // The worst case for the end: nobody watches over this one any more.
        let conmon = podman.inspect("bridge").unwrap()["State"]["ConmonPid"].as_i64().unwrap();
        let conmon = nix::unistd::Pid::from_raw(conmon.try_into().unwrap());
        nix::sys::signal::kill(conmon, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert!(podman.processes().len() >= 3);
    }
    assert!(!dir.exists());
    assert_eq!(processes(&dir, &support::podman_traces::containers(&store)), Vec::<i32>::new());
    assert_eq!(before.since(), Vec::<String>::new());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()) && Path::new(&dir).parent().is_some());
}

fn create(podman: &Podman, spec: &Value) {
    let (status, answer) = podman.api("POST", "/containers/create", Some(spec));
    assert_eq!(status, 201, "{answer}");
}

fn wait_for(port: u16, wanted: &str) {
    let began = Instant::now();
    loop {
        let answer = get(port).unwrap_or_default();
        if answer.contains(wanted) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "port {port} answers {answer:?}, not {wanted}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
