use super::*;

const LEAST: &str = r#"
[device]
name = "emea/de/store-0042/till-1"
[source]
url = "https://git.example/retail/edge.git"
[trust]
mode = "signed"
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/holdfast/agent.toml"), text).map_err(|error| error.to_string())
}

fn with(line: &str, table: &str) -> String {
    LEAST.replace(&format!("[{table}]\n"), &format!("[{table}]\n{line}\n"))
}

fn server(config: &Config) -> &GitServer {
    match &config.source.place {
        Place::GitServer(server) => server,
        Place::GitFolder(folder) => panic!("{folder:?} is no server"),
    }
}

#[test]
fn the_least_that_must_be_written_gives_a_box_with_every_default() {
    let config = parse(LEAST).unwrap();
    assert_eq!(server(&config).reference, Reference::Branch("main".to_owned()));
    assert_eq!(config.source.interval, Duration::from_secs(300));
    assert_eq!(config.trust.allowed_signers, Some("/etc/holdfast/allowed_signers".into()));
    assert_eq!(config.state.disk_budget, 2 << 30);
    assert_eq!(config.api.socket, Path::new("/run/holdfast/api.sock"));
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let all = format!(
        "{LEAST}\n[drivers.kubernetes]\ncontext = \"edge\"\ncluster = \"emea/de/store-0042\"\nimages_dir = \"images\"\n[drivers.podman]\n[drivers.simulated]\ndir = \"sim\"\n[registries.\"registry.example:5000\"]\nmirrors = [\"cache.local:5000\"]\n"
    );
    let with_password = with("tag = \"v1\"\nusername = \"edge\"\npassword_file = \"password\"", "source");
    let with_token = with("token_file = \"token\"\nproxy = \"http://proxy:3128\"", "source");
    let of_folder = LEAST.replace("https://git.example/", "file:///media/");
    for text in [LEAST, &all, &with_password, &with_token, &of_folder] {
        let config = parse(text).unwrap();
        assert_eq!(parse(&config.to_toml()).unwrap(), config);
    }
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let config = parse(&with("ca_file = \"ca.pem\"", "source")).unwrap();
    assert_eq!(server(&config).ca_file, Some("/etc/holdfast/ca.pem".into()));
}

#[cfg(feature = "kubernetes")]
#[test]
fn a_cluster_is_reached_by_k3ss_kubeconfig_and_the_rest_is_only_what_was_asked_for() {
    let of = |lines: &str| {
        parse(&format!("{LEAST}[drivers.kubernetes]\n{lines}"))
            .map(|config| config.drivers.kubernetes.unwrap())
    };
    let kubernetes = of("").unwrap();
    assert_eq!(kubernetes.kubeconfig, Path::new("/etc/rancher/k3s/k3s.yaml"));
    assert_eq!((kubernetes.context, kubernetes.cluster, kubernetes.images_dir), (None, None, None));
    let all = of("cluster = \"emea/de/store-0042\"\nimages_dir = \"images\"\ncontext = \"edge\"\n").unwrap();
    assert_eq!(all.cluster.unwrap().as_str(), "emea/de/store-0042");
    assert_eq!(all.images_dir, Some("/etc/holdfast/images".into()));
    for (line, part) in [
        ("cluster = \"Store 42\"", "is not a valid name for a cluster"),
        ("context = \"\"", "context is empty"),
        ("images_dir = \"\"", "images_dir is empty"),
        ("image_dir = \"x\"", "did you mean \"images_dir\""),
    ] {
        let error = of(line).unwrap_err();
        assert!(error.contains("agent.toml:9:") && error.contains(part), "{line}: {error}");
    }
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_the_nearest_known_name() {
    let error = parse(&with("intervall = \"5m\"", "source")).unwrap_err();
    assert!(
        error.starts_with(
            "/etc/holdfast/agent.toml:5:1: unknown key \"intervall\": did you mean \"interval\"?"
        ),
        "{error}"
    );
    let error = parse(&format!("{LEAST}[drivers.wsm]\nenabled = true\n")).unwrap_err();
    assert!(error.contains("agent.toml:8:10: ") && error.contains("did you mean \"wasm\""), "{error}");
}

#[test]
fn a_wrong_value_is_an_error_with_its_place_and_what_to_write() {
    let error = parse(&with("interval = \"5\"", "source")).unwrap_err();
    assert!(error.contains("agent.toml:5:12: \"5\" is not a duration") && error.contains("5m"), "{error}");
    let error = parse(&LEAST.replace("till-1", "Till")).unwrap_err();
    assert!(error.contains("agent.toml:3:8: ") && error.contains("not a valid name for a device"), "{error}");
}

#[test]
fn trust_is_never_assumed() {
    for text in [LEAST.replace("[trust]\nmode = \"signed\"", ""), LEAST.replace("mode = \"signed\"", "")] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains("mode = \"signed\"") && error.contains("mode = \"none\""), "{error}");
    }
    let config = parse(&LEAST.replace("signed", "none")).unwrap();
    assert_eq!(config.trust, Trust { mode: TrustMode::None, allowed_signers: None });
    assert!(parse(&LEAST.replace("\"signed\"", "\"none\"\nallowed_signers = \"x\"")).is_err());
    assert!(parse(&LEAST.replace("signed", "Signed")).unwrap_err().contains("did you mean \"signed\"?"));
}

#[test]
fn every_problem_is_told_at_once() {
    let text = with("branch = \"a\"\ntag = \"b\"\npath = \"../x\"\ninterval = \"1ms\"", "source");
    assert_eq!(parse(&text).unwrap_err().lines().count(), 3);
}

#[test]
fn credentials_in_the_url_are_refused_and_not_repeated() {
    for url in ["https://edge:hunter2@git.example/x.git", "https://token@git.example/x"] {
        let error = parse(&LEAST.replace("https://git.example/retail/edge.git", url)).unwrap_err();
        assert!(error.contains("password_file") && !error.contains("hunter2"), "{error}");
    }
    // What isn't there yet is refused without being repeated either.
    let error = parse(&LEAST.replace("https://git.example", "ssh://git:hunter2@git.example")).unwrap_err();
    assert!(error.contains("ssh:// is not supported yet") && !error.contains("hunter2"), "{error}");
}

#[test]
fn what_says_how_a_server_is_reached_is_refused_beside_a_folder() {
    let of_folder =
        |line: &str| parse(&with(line, "source").replace("https://git.example/", "file:///media/"));
    let Place::GitFolder(folder) = of_folder("tag = \"v1\"").unwrap().source.place else {
        panic!("no folder")
    };
    assert_eq!(folder.folder, Path::new("/media/retail/edge.git"));
    for key in ["ca_file", "proxy", "username", "password_file", "token_file"] {
        let error = of_folder(&format!("{key} = \"http://x:1\"")).unwrap_err();
        assert!(
            error.contains("agent.toml:5:") && error.contains(&format!("{key} has no effect")),
            "{error}"
        );
    }
}

#[test]
fn half_given_credentials_are_an_error() {
    for line in [
        "username = \"edge\"",
        "password_file = \"p\"",
        "username = \"e:dge\"\npassword_file = \"p\"",
        "username = \"edge\"\npassword_file = \"p\"\ntoken_file = \"t\"",
    ] {
        assert!(parse(&with(line, "source")).is_err(), "{line}");
    }
}

#[test]
fn a_password_is_never_sent_in_the_clear() {
    let text = with("username = \"edge\"\npassword_file = \"password\"", "source");
    assert!(parse(&text).is_ok());
    assert!(parse(&text.replace("https://", "http://")).unwrap_err().contains("https"));
}

#[test]
fn urls_that_cannot_be_fetched_are_refused() {
    for url in ["git.example/x", "s3://bucket/x", "ftp://x/y", "file://relative", "https:///x"] {
        assert!(parse(&LEAST.replace("https://git.example/retail/edge.git", url)).is_err(), "{url}");
    }
}

#[test]
fn names_that_git_refuses_are_refused() {
    for line in ["branch = \"a..b\"", "branch = \"-x\"", "tag = \"a b\"", "revision = \"abc\""] {
        assert!(parse(&with(line, "source")).is_err(), "{line}");
    }
}

#[test]
fn hostile_text_is_an_error_and_never_a_panic() {
    for text in [
        "",
        "\0",
        "[",
        "device = 1",
        "[device]\nname = \"é",
        &"[a".repeat(5000),
        &"a.".repeat(5000),
        &"[[".repeat(9000),
    ] {
        assert!(parse(text).is_err());
    }
}
