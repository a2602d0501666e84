//! What `doctor` prints, held by a golden file.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use holdfast_core::clock::Doubt;

use super::*;

const LEAST: &str =
    "[device]\nname = \"till-1\"\n[source]\nurl = \"file:///DIR/edge.git\"\n[trust]\nmode = \"none\"\n";

/// Paths and numbers that differ from run to run are replaced.
fn shown(dir: &Path, port: u16, findings: &[Finding]) -> String {
    let dir = dir.to_str().unwrap();
    let line = |finding: &Finding| {
        let text = finding.render().replace(dir, "DIR").replace(&format!(":{port}"), ":PORT");
        let text = text.replace(&format!("user {}", geteuid()), "user UID");
        match (text.find("disk           "), text.find(" MiB free")) {
            (Some(begin), Some(end)) => format!("{}N{}\n", &text[..begin + 15], &text[end..]),
            _ => text + "\n",
        }
    };
    findings.iter().map(line).collect()
}

/// Every finding that can be had on any machine.
#[tokio::test]
async fn what_doctor_prints_is_as_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let file = |name: &str, text: &str, mode: u32| -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let read = |more: &str| Config::parse(Path::new("agent.toml"), &(LEAST.to_owned() + more)).unwrap();
    let mut config =
        read(&format!("[drivers.wasm]\nenabled = false\n[api]\nsocket = \"{}/api.sock\"\n", dir.display()));
    let mut found = Vec::new();

    for mode in [0o644, 0o666] {
        found.push(configuration(&file("agent.toml", "", mode), &config));
    }
    found.push(secret(&dir.join("missing"), false));
    for mode in [0o600, 0o644] {
        found.push(secret(&file("token", "", mode), false));
    }

    found.push(trust(&config));
    config.trust.mode = TrustMode::Signed;
    config.trust.allowed_signers = Some(dir.join("missing"));
    found.push(trust(&config));
    let key = "ops namespaces=\"git\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n";
    for (text, mode) in [("", 0o644), ("x\n", 0o644), (key, 0o666), (key, 0o644)] {
        config.trust.allowed_signers = Some(file("allowed_signers", text, mode));
        found.push(trust(&config));
    }

    let (late, proven) = ("2099-01-01T00:00:00Z".parse().unwrap(), "2026-11-21T00:00:00Z".parse().unwrap());
    found.push(time(&Time::Known(proven), true));
    found.push(time(&Time::Known(proven), false));
    for (shown, proven, why) in [
        (late, proven, Suspicion::Ahead),
        (proven, late, Suspicion::Behind),
        (proven, proven, Suspicion::Stood),
    ] {
        found.push(time(&Time::Unknown(Doubt { shown, proven, why }), false));
    }

    let run = dir.join("systemd");
    found.push(systemd(&run));
    fs::create_dir_all(run.join("system")).unwrap();
    found.push(systemd(&run));
    fs::create_dir_all(run.join("journal/socket")).unwrap();
    found.push(systemd(&run));
    found.push(cgroups(dir));
    file("cgroup.controllers", "cpu memory pids", 0o644);
    found.push(cgroups(dir));

    let kept = dir.join("state");
    config.state.dir = "nowhere/state".into();
    found.extend(state(&config));
    found.push(writable(&kept, dir));
    fs::create_dir(&kept).unwrap();
    for mode in [0o700, 0o755] {
        fs::set_permissions(&kept, fs::Permissions::from_mode(mode)).unwrap();
        found.push(writable(&kept, &kept));
    }
    found.push(writable(Path::new("/proc/self"), Path::new("/proc/self")));
    found.push(space(dir, 1 << 60));
    found.push(space(&dir.join("missing"), 1 << 20));

    for url in [format!("file://{}", dir.display()), format!("file://{}/missing", dir.display())] {
        config =
            Config::parse(Path::new("agent.toml"), &LEAST.replace("file:///DIR/edge.git", &url)).unwrap();
        found.push(source(&config).await);
    }
    let proxy = format!("https://git.example/edge.git\"\nproxy = \"http://127.0.0.1:{port}");
    config = Config::parse(Path::new("agent.toml"), &LEAST.replace("file:///DIR/edge.git", &proxy)).unwrap();
    found.push(source(&config).await);
    drop(listener);
    found.push(source(&config).await);

    fs::create_dir(dir.join("box")).unwrap();
    for simulated in ["box", "missing"] {
        config = read(&format!(
            "[drivers.wasm]\nenabled = false\n[drivers.simulated]\ndir = \"{0}/{simulated}\"\n[drivers.kubernetes]\nkubeconfig = \"{0}/{simulated}/k3s.yaml\"\n[api]\nsocket = \"{0}/api.sock\"\n",
            dir.display()
        ));
        found.extend(drivers(&config).await);
        file("box/k3s.yaml", "", 0o600);
    }
    found.push(daemon(&config).await);

    found.push(sandbox(Ok(Kept::default())));
    found.push(sandbox(Ok(Kept::of(&["/home"], &[]))));
    found.push(sandbox(Ok(Kept::of(&[], &["/opt"]))));
    found.push(sandbox(Ok(Kept::of(&["/home", "/tmp"], &["/opt"]))));
    found.push(sandbox(Err(Unseen::Hidden("/home".into()))));
    #[cfg(feature = "wasm")]
    for cgroups in [Ok(()), Err("this system has no cgroups".to_owned())] {
        found.push(workloads_cgroups(cgroups));
    }

    let text = shown(dir, port, &found);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/doctor.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&golden).unwrap_or_default(), text);
}
