//! A real daemon on a temporary directory, and plain HTTP to it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub(crate) const PUMASI: &str = env!("CARGO_BIN_EXE_pumasi");
/// Conditions that do not come true in this time never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the program to its end, with nothing of this machine's configuration.
pub(crate) fn pumasi(dir: &Path, args: &[&str]) -> Output {
    command(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The program on a data directory, in a clean environment.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(PUMASI);
    command
        .env_clear()
        .env("HOME", dir.parent().unwrap())
        .arg("--data-dir")
        .arg(dir);
    command
}

/// Its output as text, whatever the exit code.
pub(crate) fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// What it printed, if it ended well.
pub(crate) fn ok(output: &Output) -> String {
    let (stdout, stderr) = text(output);
    assert!(
        output.status.success(),
        "{:?}\n{stdout}\n{stderr}",
        output.status
    );
    stdout
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Option<Child>,
    pub(crate) dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) tcp: Option<String>,
}

impl Daemon {
    /// Starts one on `dir` with an account named `name`, and waits until it is ready.
    pub(crate) fn with_account(dir: &Path, name: &str) -> Self {
        let words = dir.with_extension("words");
        let words = words.to_str().unwrap();
        let args = ["init", "--name", name, "--key-file", "--phrase-out", words];
        ok(&pumasi(dir, &args));
        Self::start(dir, &["--building", name])
    }

    /// Starts one on `dir` and waits until it is ready.
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = command(dir)
            .args([
                "run",
                "--listen",
                "/ip4/127.0.0.1/udp/0/quic-v1",
                "--mdns",
                "false",
            ])
            .args([
                "--local",
                "true",
                "--api-listen",
                "127.0.0.1:0",
                "--log-level",
                "warn",
            ])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut tcp = None;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = lines
                .next()
                .expect("the daemon ended before it was ready")
                .unwrap();
            if let Some((_, rest)) = line.split_once("http://") {
                tcp = rest.split(' ').next().map(str::to_owned);
            }
            if line.starts_with("ready in") {
                break;
            }
        }
        Self {
            child: Some(child),
            dir: dir.to_owned(),
            socket: dir.join("api.sock"),
            tcp,
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap()
    }

    /// The API's token.
    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.dir.join("api.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Runs a command of the program against this daemon.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        pumasi(&self.dir, args)
    }

    /// A request over the socket.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        more: &[&str],
    ) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut headers = vec!["Host: localhost".to_owned()];
        if !body.is_empty() {
            headers.push("Content-Type: application/json".to_owned());
        }
        headers.extend(more.iter().map(|&header| header.to_owned()));
        self.raw(method, path, &headers, body.as_bytes())
    }

    /// A request over the socket, exactly as given.
    pub(crate) fn raw(&self, method: &str, path: &str, headers: &[String], body: &[u8]) -> Answer {
        exchange(
            UnixStream::connect(&self.socket).unwrap(),
            method,
            path,
            headers,
            body,
        )
    }

    /// A request over TCP, exactly as given.
    pub(crate) fn raw_tcp(
        &self,
        method: &str,
        path: &str,
        headers: &[String],
        body: &[u8],
    ) -> Answer {
        let stream = TcpStream::connect(self.tcp.as_ref().unwrap()).unwrap();
        exchange(stream, method, path, headers, body)
    }

    /// GET that must succeed.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.http("GET", path, None, &[]).expect(200)
    }

    /// POST that must succeed.
    pub(crate) fn post(&self, path: &str, body: &Value, status: u16) -> Value {
        self.http("POST", path, Some(body), &[]).expect(status)
    }

    /// An open event stream.
    pub(crate) fn stream(&self, path: &str, headers: &[&str]) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers
            .iter()
            .map(|header| format!("{header}\r\n"))
            .collect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        )
        .unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer with this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// A complete problem document with this status and code.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        let document = self.json();
        assert_eq!(document["code"], code, "{self:?}");
        assert_eq!(document["status"], status);
        let kind = format!("urn:pumasi:problem:{}", code.replace('_', "-"));
        assert_eq!(document["type"], kind);
        for member in ["title", "detail", "instance", "request_id"] {
            assert!(
                !document[member].as_str().unwrap().is_empty(),
                "{member}: {self:?}"
            );
        }
        assert_eq!(document["request_id"], self.header("x-request-id").unwrap());
        assert!(document["retryable"].is_boolean());
        document
    }
}

fn exchange<S: Read + Write>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[String],
    body: &[u8],
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(&format!("{header}\r\n"));
    }
    if !headers
        .iter()
        .any(|header| header.to_lowercase().starts_with("content-length"))
        && !body.is_empty()
    {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // A server that refuses a large body closes before it has read it.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: body.to_owned(),
    }
}

/// Asks until the answer is as wanted.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "{what} did not happen in {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the accounts of two daemons contacts of each other; `names` are their names.
pub(crate) fn befriend(nodes: [&Daemon; 2], names: [&str; 2]) {
    let body = serde_json::json!({ "name": names[1] });
    let link = nodes[0].post("/api/v1/invitations", &body, 201)["link"].clone();
    let body = serde_json::json!({ "uri": link, "name": names[0] });
    nodes[1].post("/api/v1/contacts", &body, 201);
    for (node, other) in [(nodes[0], names[1]), (nodes[1], names[0])] {
        wait_for("the contact to become active", || {
            let contact = node.http("GET", &format!("/api/v1/contacts/{other}"), None, &[]);
            (contact.status == 200 && contact.json()["state"] == "active").then_some(())
        });
    }
}

/// Two daemons whose accounts, hana and bora, are contacts of each other.
pub(crate) fn friends(dir: &Path) -> (Daemon, Daemon) {
    let hana = Daemon::with_account(&dir.join("hana"), "hana");
    let bora = Daemon::with_account(&dir.join("bora"), "bora");
    befriend([&hana, &bora], ["hana", "bora"]);
    (hana, bora)
}
