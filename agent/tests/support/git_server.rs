//! A real Git server over HTTPS: nginx and git-http-backend, with a certificate authority of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::git_repo::{SignedRepo, git_in};
use super::ports::{free_port, listens};
use super::tools::{Daemon, missing, run};

/// How the server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// User and password that it asks for.
    pub auth: Option<(String, String)>,
    /// Whether it can leave trees out (`uploadpack.allowFilter`).
    pub filter: bool,
    /// More lines for nginx's `server` block.
    pub extra: String,
    /// A port of the loopback on which it listens too, in the clear.
    pub plain_port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Options { auth: None, filter: true, extra: String::new(), plain_port: None }
    }
}

/// The server; it ends when this is dropped. It has one repository, `edge.git`.
#[derive(Debug)]
pub struct GitServer {
    dir: TempDir,
    port: u16,
    _cgi: Daemon,
    _nginx: Daemon,
}

impl GitServer {
    /// Starts a server whose repository has what `repo` has.
    pub fn start(repo: &SignedRepo) -> Self {
        Self::with(repo, &Options::default())
    }

    /// The same, as `options` say.
    pub fn with(repo: &SignedRepo, options: &Options) -> Self {
        let backend = Path::new("/usr/lib/git-core/git-http-backend");
        assert!(backend.exists(), "{}", missing("git-http-backend"));
        let dir = tempfile::tempdir().unwrap();
        make_certificates(dir.path());
        let bare = dir.path().join("repos/edge.git");
        std::fs::create_dir_all(&bare).unwrap();
        run(git_in(&bare).args(["init", "-q", "--bare", "-b", "main"]));
        let filter = if options.filter { "true" } else { "false" };
        run(git_in(&bare).args(["config", "uploadpack.allowFilter", filter]));
        repo.push(&bare);

        let socket = dir.path().join("cgi.sock");
        // One process: children of its own would outlive it.
        let mut cgi = Daemon::start("fcgiwrap", |command| {
            command.arg("-s").arg(format!("unix:{}", socket.display()));
            command.env("HOME", dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        cgi.wait_until("fcgiwrap", || socket.exists());

        let port = free_port();
        let config = dir.path().join("nginx.conf");
        std::fs::write(&config, nginx_config(dir.path(), port, options)).unwrap();
        if let Some((user, password)) = &options.auth {
            let file = dir.path().join("users");
            run(Command::new("htpasswd").arg("-cb").arg(&file).args([user, password]));
        }
        let mut nginx = Daemon::start("nginx", |command| {
            command.arg("-p").arg(dir.path()).arg("-c").arg(&config);
            command.arg("-e").arg(dir.path().join("error.log"));
            command.stdout(Stdio::null()).stderr(Stdio::null());
        });
        nginx.wait_until("nginx", || listens(port));
        let server = GitServer { dir, port, _cgi: cgi, _nginx: nginx };
        server.forget_requests();
        server
    }

    /// The address for `source.url`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/edge.git", self.port)
    }

    /// The port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file for `source.ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The repository on the server's disk.
    pub fn bare(&self) -> PathBuf {
        self.dir.path().join("repos/edge.git")
    }

    /// The requests that were answered, one line each: method, path, status, bytes sent.
    /// nginx writes a line after the answer is gone: this waits until there are `expected` lines, and a moment
    /// for those that should not be there.
    pub fn requests(&self, expected: usize) -> Vec<String> {
        let read = || {
            let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
            log.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let began = std::time::Instant::now();
        while read().len() < expected && began.elapsed() < std::time::Duration::from_secs(60) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        read()
    }

    /// Starts counting anew.
    pub fn forget_requests(&self) {
        let log = std::fs::OpenOptions::new().write(true).open(self.dir.path().join("access.log"));
        log.unwrap().set_len(0).unwrap();
    }
}

/// A certificate authority, and a certificate of it for localhost.
pub fn make_certificates(dir: &Path) {
    let openssl = |args: &[&str]| {
        run(Command::new("openssl").current_dir(dir).args(args));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
    let ca = ["-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&["req", "-x509"], &key[..], &ca[..]].concat());
    let leaf = [
        "-subj",
        "/CN=localhost",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        "server.key",
        "-out",
        "server.pem",
    ];
    openssl(&[&["req", "-x509"], &key[..], &leaf[..]].concat());
}

fn nginx_config(dir: &Path, port: u16, options: &Options) -> String {
    let dir = dir.display();
    let auth = match options.auth {
        Some(_) => format!("auth_basic edge; auth_basic_user_file {dir}/users;"),
        None => String::new(),
    };
    let plain = options.plain_port.map(|port| format!("listen 127.0.0.1:{port};")).unwrap_or_default();
    let extra = &options.extra;
    format!(
        r#"
daemon off;
master_process off;
user root;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format short '$request_method $request_uri $status $bytes_sent';
  access_log {dir}/access.log short;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port} ssl;
    {plain}
    server_name localhost;
    ssl_certificate {dir}/server.pem;
    ssl_certificate_key {dir}/server.key;
    {extra}
    location ~ ^/(edge\.git/.*)$ {{
      {auth}
      fastcgi_pass unix:{dir}/cgi.sock;
      fastcgi_buffering off;
      fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
      fastcgi_param GIT_PROJECT_ROOT {dir}/repos;
      fastcgi_param GIT_HTTP_EXPORT_ALL "";
      fastcgi_param GIT_CONFIG_NOSYSTEM 1;
      fastcgi_param GIT_CONFIG_GLOBAL /dev/null;
      fastcgi_param HTTP_GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO /$1;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
    }}
  }}
}}
"#
    )
}
