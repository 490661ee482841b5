//! Chromium under test, driven over its DevTools protocol.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::skip;

/// How long Chromium may take for one command; it is slow on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a page may take to become what a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page, in a new profile. It ends when this is dropped.
pub struct Browser {
    _process: Child,
    _profile: TempDir,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    /// The id of the last command.
    last: u64,
    session: Option<String>,
    /// What pages say on the console, exceptions, and reports of what their policy forbids.
    said: Vec<String>,
}

impl Browser {
    /// Starts one. None, with a message, if Chromium is not installed.
    pub async fn start() -> Option<Self> {
        if Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_err() {
            skip("chromium is not installed");
            return None;
        }
        let profile = tempfile::tempdir().expect("a folder");
        // Chromium reads commands from the descriptor 3 and writes to 4, so the shell hands it its own input and output as these.
        let script = r#"exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe "--user-data-dir=$0" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("sh starts");
        let commands = process.stdin.take().expect("it is piped");
        let messages = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut browser = Self { _process: process, _profile: profile, commands, messages, last: 0, session: None, said: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    /// Sends a command and waits for its result.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        let answer = self.ask(method, parameters).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Sends a command and waits for what is answered, which may be an error.
    async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).await.expect("Chromium runs");
        timeout(LIMIT, self.answer()).await.unwrap_or_else(|_| panic!("Chromium does not answer {method}"))
    }

    /// The answer to the last command. What Chromium tells before it is kept where a test may ask for it.
    async fn answer(&mut self) -> Value {
        loop {
            let mut bytes = Vec::new();
            self.messages.read_until(0, &mut bytes).await.expect("Chromium runs");
            assert_eq!(bytes.pop(), Some(0), "Chromium ended");
            let message: Value = serde_json::from_slice(&bytes).expect("JSON");
            if message["id"] == json!(self.last) {
                return message;
            }
            match message["method"].as_str() {
                Some("Runtime.consoleAPICalled") => self.said.push(message["params"]["args"].to_string()),
                Some("Runtime.exceptionThrown") => self.said.push(message["params"]["exceptionDetails"].to_string()),
                Some("Log.entryAdded") => self.said.push(message["params"]["entry"].to_string()),
                _ => {}
            }
        }
    }

    /// What was said since this was asked last.
    pub fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// Opens an address and waits until its page is complete.
    pub async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.wait_for("document.readyState === 'complete'").await;
    }

    /// The value of an expression in the page; a promise is awaited.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let result = self.call("Runtime.evaluate", parameters).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub async fn wait_for(&mut self, expression: &str) {
        let limit = Instant::now() + PATIENCE;
        let parameters = json!({"expression": format!("Boolean({expression})"), "returnByValue": true});
        // A page that is being left can't answer.
        while self.ask("Runtime.evaluate", parameters.clone()).await["result"]["result"]["value"] != json!(true) {
            if Instant::now() >= limit {
                let page = self.eval("document.documentElement.outerHTML").await;
                panic!("the page does not become so that {expression}; it said {:?}: {page}", self.said);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The size of the window in pixels, and the colours that people prefer: light or dark.
    pub async fn show(&mut self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Whether scripts of pages that are opened from now on run.
    pub async fn run_scripts(&mut self, run: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !run})).await;
    }

    /// Presses a key, named as in `KeyboardEvent.key`, with or without Ctrl.
    pub async fn press(&mut self, key: &str, ctrl: bool) {
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            letter => letter.to_ascii_uppercase().bytes().next().map_or(0, u32::from),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code, "modifiers": if ctrl { 2 } else { 0 }});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types into what has the focus.
    pub async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Clicks the middle of the first element that a selector finds, which scrolls it into view.
    pub async fn click(&mut self, selector: &str) {
        let selector = json!(selector);
        let find = format!(
            "(() => {{ const element = document.querySelector({selector}); if (!element) return null; element.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = self.eval(&find).await;
        assert!(at.is_array(), "there is no {selector}");
        self.mouse("mousePressed", &at[0], &at[1]).await;
        self.mouse("mouseReleased", &at[0], &at[1]).await;
    }

    /// Drags the mouse from one point of the window to another.
    pub async fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.mouse("mouseMoved", &json!(from.0), &json!(from.1)).await;
        self.mouse("mousePressed", &json!(from.0), &json!(from.1)).await;
        self.mouse("mouseMoved", &json!(f64::midpoint(from.0, to.0)), &json!(to.1)).await;
        self.mouse("mouseMoved", &json!(to.0), &json!(to.1)).await;
        self.mouse("mouseReleased", &json!(to.0), &json!(to.1)).await;
    }

    async fn mouse(&mut self, kind: &str, x: &Value, y: &Value) {
        let held = u8::from(kind != "mouseReleased");
        let button = json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": held, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", button).await;
    }
}
