//! A real browser without a screen: Chromium, spoken to by its driver's WebDriver protocol over plain HTTP.
//!
//! Everything of a browser lies in a temporary folder; browser and driver end with the value, also when a test panics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use longhaul_test_brokers::debian::{on_path, provide};
use longhaul_test_brokers::{Process, free_port, wait_for_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::call;

/// No sandbox: tests may run as root in a container. Nothing is fetched, looked up or reported by the browser itself.
const ARGUMENTS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
];

/// A browser with one window.
pub struct Browser {
    port: u16,
    session: String,
    _driver: Process,
    _folder: TempDir,
}

impl Browser {
    /// Starts one with a window of that size; installs Debian's package where it is missing and this process may.
    ///
    /// # Panics
    /// When there is none, or it does not start.
    pub async fn start(width: u32, height: u32) -> Self {
        provide("chromium-driver", || on_path("chromedriver").then_some(())).expect("a browser");
        let folder = tempfile::Builder::new().prefix("longhaul-browser-").tempdir().expect("a temporary folder");
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("HOME", folder.path());
        let driver = Process::spawn(&mut command, &folder.path().join("driver.log")).expect("the driver starts");
        wait_for_port(port, Duration::from_secs(30)).expect("the driver listens");
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(|argument| (*argument).to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", folder.path().join("profile").display()));
        arguments.push(format!("--window-size={width},{height}"));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let (status, body) = call("POST", &url, &[], wanted.to_string()).await.expect("the driver answers");
        assert_eq!(status, 200, "{body}\n{}", driver.output());
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let session = answer["value"]["sessionId"].as_str().expect("a session").to_owned();
        Self { port, session, _driver: driver, _folder: folder }
    }

    async fn ask(&self, method: &str, what: &str, body: &Value) -> Value {
        let url = format!("http://127.0.0.1:{}/session/{}/{what}", self.port, self.session);
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let (status, body) = call(method, &url, &[], body).await.expect("the driver answers");
        assert_eq!(status, 200, "{what}: {body}");
        serde_json::from_str::<Value>(&body).expect("JSON")["value"].take()
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.ask("POST", "url", &json!({"url": url})).await;
    }

    /// Runs the body of a function in the page and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.ask("POST", "execute/sync", &json!({"script": script, "args": []})).await
    }

    /// The text that a function's body returns.
    pub async fn text(&self, script: &str) -> String {
        self.run(script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Presses and releases a key: a letter, or one of WebDriver's codes for the others.
    pub async fn press(&self, key: &str) {
        let keys = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.ask("POST", "actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": keys}]})).await;
    }

    /// Lets the page believe that its user prefers `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.ask("POST", "goog/cdp/execute", &command).await;
    }

    /// What the console has said since this was last asked.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.ask("POST", "se/log", &json!({"type": "browser"})).await;
        entries.as_array().into_iter().flatten().map(Value::to_string).collect()
    }

    /// Keeps a picture of the window as `LONGHAUL_SCREENSHOTS/name`; does nothing without that variable.
    ///
    /// # Panics
    /// When it cannot be written.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("LONGHAUL_SCREENSHOTS") else { return };
        let taken = self.ask("GET", "screenshot", &Value::Null).await;
        let png = STANDARD.decode(taken.as_str().unwrap_or_default()).expect("a picture");
        std::fs::write(std::path::Path::new(&folder).join(name), png).expect("a picture's file");
    }
}

impl Drop for Browser {
    /// The driver, when it is killed, leaves its browser behind; so it is asked to end that one first.
    fn drop(&mut self) {
        let request = format!(
            "DELETE /session/{} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            self.session
        );
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 512]);
        }
    }
}
