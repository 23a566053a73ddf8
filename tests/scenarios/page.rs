//! The page of the admin listener in a real browser, and `longhaul top` in a real terminal: a link is cut and turns red, is healed and turns
//! green, and what the router cannot know is shown as that.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use longhaul_tests::browser::Browser;
use longhaul_tests::http::{call, publish_steadily};
use longhaul_tests::mesh::{Mesh, get, program};
use longhaul_tests::relay::Relay;
use longhaul_tests::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ORDERS: &str = "name: orders\nfrom: {region: eu-west, broker: events, topics: [\"orders.>\"]}\nto:\n\
    - {region: us-east, broker: events, topic: \"eu.{topic}\"}\n- {region: ap-south, broker: events, topic: \"eu.{topic}\"}\nstart: earliest";
const PAYMENTS: &str = "name: payments\nfrom: {region: us-east, broker: events, topics: [\"payments.>\"]}\n\
    to: [{region: eu-west, broker: events, topic: \"us.{topic}\"}]\nstart: earliest";

/// Three regions; the link from the first to the second can be cut. Returns the first one's broker too.
async fn mesh() -> (Mesh, Relay, String) {
    let (mesh, source) = Mesh::new(&["eu-west", "us-east", "ap-south"]).embedded("eu-west", "events");
    let (mesh, _) = mesh.embedded("us-east", "events");
    let (mesh, _) = mesh.embedded("ap-south", "events");
    let relay = Relay::start(&mesh.link_address("us-east")).await;
    let mut mesh = mesh.route(ORDERS).route(PAYMENTS).via("eu-west", "us-east", &relay.address());
    mesh.start().await;
    for region in ["eu-west", "us-east"] {
        mesh.wait_streaming(region).await;
    }
    (mesh, relay, source)
}

/// The class of a link's line on the map, its colour, and what a screen reader says of it.
async fn edge(browser: &Browser, between: [&str; 2]) -> Option<(String, [u64; 3], String)> {
    let script = format!(
        "const edge = [...document.querySelectorAll('#map .edge')].find((edge) => {between:?}.every((name) => edge.getAttribute('aria-label').includes(name)));
         return edge && [edge.getAttribute('class'), getComputedStyle(edge.querySelector('.line')).stroke, edge.getAttribute('aria-label')];"
    );
    let found = browser.run(&script).await;
    let text = |at: usize| found[at].as_str().map(str::to_owned);
    Some((text(0)?, rgb(&text(1)?), text(2)?))
}

/// `rgb(1, 2, 3)`.
fn rgb(colour: &str) -> [u64; 3] {
    let numbers = colour.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    numbers.collect::<Vec<_>>()[..3].try_into().expect("three of them")
}

fn is_red([red, green, blue]: [u64; 3]) -> bool {
    red > 2 * green && red > 2 * blue
}

fn is_green([red, green, blue]: [u64; 3]) -> bool {
    green > 2 * red && green > blue
}

/// Waits until a link's line has that class and colour.
async fn wait_edge(browser: &Browser, to: &str, class: &str, colour: fn([u64; 3]) -> bool) -> String {
    until(&format!("the link to {to} is drawn {class}"), PATIENCE, async || {
        let (classes, stroke, words) = edge(browser, ["eu-west", to]).await?;
        (classes.split(' ').any(|one| one == class) && colour(stroke)).then_some(words)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_turns_red_in_a_browser() {
    let (mut mesh, relay, source) = mesh().await;
    let browser = Browser::start(1280, 900).await;
    let publisher =
        tokio::spawn(publish_steadily(source, Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false))));
    let url = mesh.admin_url("eu-west");
    browser.prefer("light").await;
    browser.open(&format!("{url}/")).await;
    let words = wait_edge(&browser, "us-east", "up", is_green).await;
    assert!(words.starts_with("eu-west to us-east: up, round trip "), "{words}");
    wait_edge(&browser, "ap-south", "up", is_green).await;
    let (class, colour, words) = edge(&browser, ["ap-south", "us-east"]).await.expect("all links are on the map");
    assert_eq!(class, "edge unknown", "no router sees what others hold between them");
    assert!(!is_green(colour) && !is_red(colour), "{colour:?}");
    assert!(words.ends_with("not seen from here"), "{words}");
    until("a rate is shown", PATIENCE, async || {
        edge(&browser, ["eu-west", "us-east"]).await.filter(|(_, _, words)| words.contains("sends ")).map(drop)
    })
    .await;
    is_whole(&browser).await;
    is_usable_by_keyboard(&browser).await;
    is_legible_in(&browser, "light").await;
    browser.picture("page-light.png").await;
    is_legible_in(&browser, "dark").await;
    browser.picture("page-dark.png").await;
    browser.prefer("light").await;
    let (_, document) = get(&format!("{url}/v1/config")).await.expect("the router answers");
    assert_eq!(document, std::fs::read_to_string(mesh.mesh_document()).expect("the mesh document"));
    assert_eq!(browser.text("return document.querySelector('#document').textContent").await, document);

    relay.cut();
    let words = wait_edge(&browser, "us-east", "down", is_red).await;
    assert!(words.starts_with("eu-west to us-east: down: "), "{words}");
    wait_edge(&browser, "ap-south", "up", is_green).await;
    assert_eq!(browser.text("return document.querySelector('#figure-links').textContent").await, "1 of 2 up");
    assert!(browser.text("return document.title").await.starts_with("1 down · "));
    let row = browser.text("return [...document.querySelectorAll('#links tbody tr')].find((row) => row.cells[0].textContent.startsWith('us-east ')).innerText").await;
    assert!(row.contains("down"), "{row}");
    let news = browser.text("return document.querySelector('#news').textContent").await;
    assert!(news.contains("eu-west") && news.contains("down"), "said aloud: {news}");
    until("its flow is shown to go over the third region", PATIENCE, async || {
        let flows = browser.text("return document.querySelector('#flows').textContent").await;
        flows.contains("us-east/events over ap-south").then_some(())
    })
    .await;
    is_legible_in(&browser, "light").await;
    browser.picture("page-link-down.png").await;

    relay.heal();
    wait_edge(&browser, "us-east", "up", is_green).await;
    assert_eq!(browser.console().await, Vec::<String>::new(), "the console has nothing to say");

    publisher.abort();
    mesh.kill("eu-west");
    until("the page says that it shows what was", PATIENCE, async || {
        let contact = browser.text("return document.querySelector('#contact').textContent").await;
        contact.starts_with("no contact since").then_some(())
    })
    .await;
    mesh.start_router("eu-west");
    until("the page comes back with the router", PATIENCE, async || {
        let contact = browser.text("return document.querySelector('#contact').textContent").await;
        (contact == "live").then_some(())
    })
    .await;
}

/// A title, landmarks, one main heading, tables with names and headings, and nothing from elsewhere.
async fn is_whole(browser: &Browser) {
    assert_eq!(browser.text("return document.title").await, "eu-west · test · Longhaul");
    assert_eq!(browser.text("return document.documentElement.lang").await, "en");
    for landmark in ["header", "nav", "main", "footer", "h1"] {
        let found = browser.run(&format!("return document.querySelectorAll('{landmark}').length")).await;
        assert_eq!(found, 1, "{landmark}");
    }
    let nameless = "return [...document.querySelectorAll('section, table, nav, [role=region], #map, input')]
        .filter((e) => !(e.ariaLabel || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent || e.labels?.[0])).map((e) => e.outerHTML)";
    assert_eq!(browser.run(nameless).await, Value::Array(Vec::new()), "everything that is announced has a name");
    let headless = "return [...document.querySelectorAll('table')].filter((t) => !t.querySelector('thead th[scope=col]') ||
        [...t.tBodies[0].rows].some((row) => row.cells[0].tagName !== 'TH' && !row.querySelector('.empty'))).map((t) => t.id)";
    assert_eq!(browser.run(headless).await, Value::Array(Vec::new()), "every table has headings");
    let loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name).filter((name) => !name.startsWith(location.origin))").await;
    assert_eq!(loaded, Value::Array(Vec::new()), "nothing is loaded from elsewhere");
    let inline = browser.run("return document.querySelectorAll('style, [style], script:not([src])').length").await;
    assert_eq!(inline, 0, "the policy allows no inline code");
}

/// Every link, table and field is reached by the tabulator key, is seen to have the focus, and does what it is for.
async fn is_usable_by_keyboard(browser: &Browser) {
    let mut reached = BTreeSet::new();
    for _ in 0..60 {
        browser.press(TAB).await;
        let at = "const e = document.activeElement, s = getComputedStyle(e), ring = e.querySelector?.('.reach');
            const seen = ring ? getComputedStyle(ring).strokeOpacity < 1 : s.outlineStyle !== 'none';
            return e === document.body ? null : [seen, e.id || e.getAttribute('href') || e.getAttribute('aria-label') || e.firstElementChild.id]";
        let Value::Array(at) = browser.run(at).await else { break };
        assert_eq!(at[0], true, "the focus is seen on {}", at[1]);
        let name = at[1].as_str().unwrap_or_default();
        reached.insert(name.split(": ").next().unwrap_or_default().to_owned());
    }
    let controls =
        ["#main", "#flows-section", "links", "routes", "flows", "brokers", "parked", "filter", "document", "/metrics"];
    for control in controls.into_iter().chain(["eu-west to us-east", "eu-west to ap-south"]) {
        assert!(reached.contains(control), "{control} is not among {reached:?}");
    }
    browser.run("document.activeElement.blur(); document.querySelector('.skip').focus()").await;
    browser.press(ENTER).await;
    assert_eq!(browser.text("return location.hash").await, "#main");
    browser.run("document.querySelector('#filter').focus()").await;
    for letter in "payments".chars() {
        browser.press(&letter.to_string()).await;
    }
    let rows =
        "return [...document.querySelectorAll('#flows tbody tr')].map((row) => row.cells[0].textContent).join(' ')";
    assert_eq!(browser.text(rows).await, "payments");
    browser.run("const f = document.querySelector('#filter'); f.value = ''; f.dispatchEvent(new Event('input')); f.blur(); scrollTo(0, 0); history.replaceState(null, '', '/')").await;
}

/// All texts stand out from what is behind them by the ratio that WCAG 2.2 asks for (AA), in a page that is as bright as was asked.
async fn is_legible_in(browser: &Browser, scheme: &str) {
    browser.prefer(scheme).await;
    let script = "const parse = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = parse(c).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if ((parse(c)[3] ?? 1) > 0) return c; } return 'rgb(255,255,255)'; };
        const faint = [...document.querySelectorAll('h1, h2, small, a:not(.skip), dt, dd, th, td, p, pre, label, .state')].filter((e) => e.textContent.trim() !== '').map((e) => {
          const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
          return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
        }).filter(([ratio]) => ratio < 4.5);
        return [light(getComputedStyle(document.body).backgroundColor), faint];";
    let found = browser.run(script).await;
    let light = found[0].as_f64().expect("how bright it is");
    assert_eq!(light > 0.5, scheme == "light", "{scheme}: {light}");
    assert_eq!(found[1], Value::Array(Vec::new()), "{scheme}: too faint");
}

/// Asks for a path and reads no more than the head of the answer, in small letters.
fn ask(address: &str, path: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).expect("the router listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    (stream, String::from_utf8_lossy(&head).to_lowercase())
}

/// Watches without reading anything of it; whether that is allowed.
fn watch(address: &str) -> Option<TcpStream> {
    let (stream, head) = ask(address, "/v1/stream");
    head.starts_with("http/1.1 200").then_some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_bounded_and_the_page_is_sealed() {
    let (mut mesh, _) = Mesh::new(&["eu-west"]).embedded("eu-west", "events");
    mesh.start().await;
    let address = mesh.admin_url("eu-west").trim_start_matches("http://").to_owned();
    let (_, head) = ask(&address, "/");
    for wanted in [
        "content-security-policy: default-src 'none'; script-src 'self'",
        "frame-ancestors 'none'",
        "nosniff",
        "no-referrer",
    ] {
        assert!(head.contains(wanted), "{wanted} is missing:\n{head}");
    }
    // None of these reads what it is sent, and none delays the others.
    let mut watchers: Vec<_> = (0..32).map(|_| watch(&address).expect("there is room")).collect();
    let url = format!("{}/v1/stream", mesh.admin_url("eu-west"));
    let (status, body) = call("GET", &url, &[], "").await.expect("an answer");
    assert_eq!(status, 503, "{body}");
    watchers.pop();
    until("there is room for one that left", PATIENCE, async || watch(&address).map(drop)).await;
}

/// `longhaul top` on a terminal of its own.
struct Top {
    child: Child,
    output: std::path::PathBuf,
}

impl Top {
    fn start(mesh: &Mesh, name: &str, no_color: &str) -> Self {
        let output = mesh.folder().join(name);
        let file = File::create(&output).expect("a file");
        let (program, admin) = (program(), mesh.admin_url("eu-west"));
        let command = format!("stty rows 45 cols 150; exec '{}' top --admin {admin}", program.display());
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"]);
        script.env("TERM", "xterm-256color").env("NO_COLOR", no_color).stdin(Stdio::piped()).stdout(file);
        Self { child: script.spawn().expect("script runs"), output }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The same as words: what moves the cursor or changes colours stands between words at the most.
    fn words(&self) -> String {
        let mut text = String::new();
        for piece in self.said().split("\u{1b}[") {
            let end = piece.find(|c: char| ('@'..='~').contains(&c)).map_or(0, |end| end + 1);
            text.push(' ');
            text.push_str(&piece[end..]);
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn press(&mut self, keys: &[u8]) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        input.write_all(keys).and_then(|()| input.flush()).expect("a key");
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_turns_red_in_a_terminal() {
    const RED: &str = "38;5;1;";
    let (mesh, relay, _) = mesh().await;
    let (mut top, mut plain) = (Top::start(&mesh, "top", ""), Top::start(&mesh, "plain", "1"));
    for top in [&top, &plain] {
        until("all tables are drawn", PATIENCE, async || {
            let said = top.words();
            [
                "links 2 of 2 up",
                "Links 3",
                "Routes 2",
                "Flows 3",
                "Brokers 1",
                "Parked 0",
                "to us-east/router-1",
                "unknown",
            ]
            .iter()
            .all(|word| said.contains(word))
            .then_some(())
        })
        .await;
    }
    assert!(!top.said().contains(RED), "nothing is wrong yet");
    relay.cut();
    for top in [&top, &plain] {
        until("the link is shown down", PATIENCE, async || top.words().contains("links 1 of 2 up").then_some(())).await;
    }
    until("it is red", PATIENCE, async || top.said().contains(RED).then_some(())).await;
    assert!(!plain.said().contains("38;5;"), "NO_COLOR is respected");
    for top in [&mut top, &mut plain] {
        top.press(b"\t\x1b[B\x1b[Cq");
        let status = until("it ends", PATIENCE, async || top.child.try_wait().expect("a child")).await;
        assert!(status.success(), "{status}");
        assert!(top.said().contains("\u{1b}[?1049l"), "the terminal is given back");
    }
    let refused = Command::new(program()).arg("top").stdin(Stdio::null()).output().expect("the program runs");
    assert_eq!(refused.status.code(), Some(2), "without a terminal");
}
