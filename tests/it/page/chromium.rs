//! A headless Chromium, driven by its own debugging protocol over two pipes. All tests share one, each with tabs of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::needs::have;
use crate::test_server::await_some;

/// A running browser. It ends when its pipe closes, which the end of the tests does.
struct Browser {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    last: u64,
}

static BROWSER: OnceLock<Mutex<Browser>> = OnceLock::new();

impl Browser {
    fn start() -> Mutex<Browser> {
        // The shell gives it the pipes under the numbers that it wants, and removes its profile when it has ended.
        let script = "dir=$(mktemp -d) && chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
             --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage \
             --user-data-dir=\"$dir\" --remote-debugging-pipe about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1; \
             rm -rf \"$dir\"";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Mutex::new(Browser {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            _child: child,
            last: 0,
        })
    }

    /// Sends a command and waits for its answer; what the browser tells meanwhile is nobody's business here.
    fn call(&mut self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        write!(self.to, "{message}\0").unwrap();
        self.to.flush().unwrap();
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).unwrap();
            assert_eq!(bytes.pop(), Some(0), "the browser has ended");
            let told: Value = serde_json::from_slice(&bytes).unwrap();
            if told["id"] == self.last {
                assert!(told["error"].is_null(), "{method}: {}", told["error"]);
                return told["result"].clone();
            }
        }
    }
}

/// Sends commands one after the other, with nobody else's in between, and gives the answer to the last.
fn calls<const N: usize>(session: Option<&str>, commands: [(&str, Value); N]) -> Value {
    let browser = BROWSER.get_or_init(Browser::start);
    // One test that failed in the midst of a call leaves the others a browser that answers.
    let mut browser = browser
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut last = Value::Null;
    for (method, parameters) in commands {
        last = browser.call(session, method, parameters);
    }
    last
}

fn call(session: Option<&str>, method: &str, parameters: Value) -> Value {
    calls(session, [(method, parameters)])
}

/// Puts a tab before those of other tests, behind which it gets no keys and is not drawn.
const TO_FRONT: &str = "Page.bringToFront";

/// What a person sees. What is said to a screen reader stays there when it is said no longer; lines count where one has to
/// scroll to see them, too.
const SHOWN: &str = "[...[...document.querySelectorAll('header, main, #trouble')].map((one) => one.innerText), \
     ...[...document.querySelectorAll('.lines')].map((one) => one.textContent)].join('\\n')";

/// A tab.
pub(super) struct Tab {
    target: String,
    session: String,
}

impl Drop for Tab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            call(
                None,
                "Target.closeTarget",
                json!({ "targetId": self.target }),
            );
        }
    }
}

impl Tab {
    /// A tab that shows an address; none where there is no browser.
    pub(super) fn open(address: &str) -> Option<Tab> {
        if !have("chromium") {
            return None;
        }
        let target = call(
            None,
            "Target.createTarget",
            json!({ "url": "about:blank", "background": false }),
        );
        let target = target["targetId"].as_str().unwrap().to_owned();
        let attached = call(
            None,
            "Target.attachToTarget",
            json!({ "targetId": target, "flatten": true }),
        );
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let tab = Tab { target, session };
        tab.call(
            "Emulation.setFocusEmulationEnabled",
            json!({ "enabled": true }),
        );
        tab.size(1100, 800);
        tab.go(address);
        Some(tab)
    }

    pub(super) fn call(&self, method: &str, parameters: Value) -> Value {
        call(Some(&self.session), method, parameters)
    }

    pub(super) fn go(&self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
    }

    pub(super) fn size(&self, width: u32, height: u32) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 }),
        );
    }

    pub(super) fn dark(&self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let feature = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": feature }));
    }

    /// Says where the files go that are downloaded.
    pub(super) fn downloads_to(&self, dir: &Path) {
        let asked = json!({ "behavior": "allow", "downloadPath": dir });
        call(None, "Browser.setDownloadBehavior", asked);
    }

    /// What an expression is on the page.
    pub(super) fn ask(&self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked);
        // A page that is just being left throws; whoever waits looks again.
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true on the page.
    pub(super) fn until(&self, expression: &str) {
        let expression = format!("Boolean({expression})");
        await_some_or(
            &expression,
            || (self.ask(&expression) == true).then_some(()),
            || self.text(),
        );
    }

    /// Waits for a text on the page.
    pub(super) fn shows(&self, text: &str) {
        self.until(&format!("{SHOWN}.includes({})", json!(text)));
    }

    /// All that can be read on the page.
    pub(super) fn text(&self) -> String {
        let text = self.ask(SHOWN);
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks on the first button or link that says this, as soon as it is there.
    pub(super) fn click(&self, label: &str) {
        self.until(&format!(
            "(() => {{ const one = [...document.querySelectorAll('button, a')].find((one) => one.checkVisibility() && \
             !one.disabled && (one.textContent.trim() === {0} || one.getAttribute('aria-label') === {0})); one?.click(); return one; }})()",
            json!(label)
        ));
    }

    /// Says yes to the question that is asked.
    pub(super) fn confirm(&self) {
        self.until("document.getElementById('ask').open");
        self.ask("document.getElementById('ask-yes').click()");
    }

    /// Presses a key.
    pub(super) fn press(&self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            let commands = [(TO_FRONT, json!({})), ("Input.dispatchKeyEvent", event)];
            calls(Some(&self.session), commands);
        }
    }

    /// Types into what has the focus.
    pub(super) fn write(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Takes a picture, for a person to look at.
    pub(super) fn picture(&self, name: &str) {
        let asked = ("Page.captureScreenshot", json!({ "format": "png" }));
        let taken = calls(Some(&self.session), [(TO_FRONT, json!({})), asked]);
        let bytes = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name).with_extension("png"), bytes).unwrap();
    }
}

/// As [`await_some`], with what the page shows where it is in vain.
fn await_some_or(what: &str, look: impl FnMut() -> Option<()>, shown: impl FnOnce() -> String) {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| await_some(what, look)));
    if let Err(panic) = caught {
        eprintln!("--- the page shows:\n{}", shown());
        std::panic::resume_unwind(panic);
    }
}
