//! Hubs that mean harm: every answer ends in a clear error, and nothing outside the cache is touched.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod hub;

use hub::{Fault, Kind, Options, Place, TestHub};
use rotor_hub::{Hub, PullOptions, Reference, Settings};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

struct World {
    folder: tempfile::TempDir,
    hub: TestHub,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("hub").join("org").join("model");
        fs::create_dir_all(&repo).unwrap();
        fs::write(repo.join("m-i2_s.gguf"), vec![1; 5000]).unwrap();
        fs::create_dir_all(folder.path().join("home").join("cache")).unwrap();
        let hub = TestHub::start(&folder.path().join("hub"), Options::default());
        World { folder, hub }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("home").join("cache")
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.url().into(),
            token: Some("hf_test".into()),
            cache: self.cache(),
            offline: false,
            without_links: false,
            stall: Duration::from_secs(20),
            back_off: Duration::from_millis(10),
            certificates: None,
        }
    }

    /// The error's words; the pull has to fail, and to leave nothing but names of the cache's own behind.
    fn error(&self) -> String {
        let started = Instant::now();
        let hub = Hub::new(&self.settings()).unwrap();
        let pulled = hub.pull(&Reference::parse("org/model").unwrap(), &PullOptions::default(), &mut |_| {});
        let error = pulled.map(|pulled| pulled.path).unwrap_err().to_string();
        // Long enough for a slow machine, and far from for ever.
        assert!(started.elapsed() < Duration::from_secs(200), "{error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
        assert!(error.len() < 2000, "{error}");
        self.nothing_outside();
        error
    }

    fn nothing_outside(&self) {
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.folder.path().join("home")), ["cache"]);
        assert_eq!(names(self.folder.path()), ["home", "hub"]);
        let known = |name: &String| name == ".locks" || name == "models--org--model";
        assert!(names(&self.cache()).iter().all(known), "{:?}", names(&self.cache()));
        let known = |name: &String| [".no_exist", "blobs", "refs", "snapshots"].contains(&name.as_str());
        let repo = names(&self.cache().join("models--org--model"));
        assert!(repo.iter().all(known), "{repo:?}");
    }

    fn siblings(&self, siblings: Value) {
        self.hub.fault(Place::Info, Kind::Json(json!({"siblings": siblings})));
    }
}

fn file(name: &str) -> Value {
    json!({"rfilename": name, "size": 5000, "lfs": {"sha256": "a".repeat(64), "size": 5000}})
}

#[test]
fn names_that_lead_out_of_the_cache() {
    let names = [
        "../../evil-i2_s.gguf",
        "/tmp/evil.gguf",
        "a/../../evil.gguf",
        "..\\evil.gguf",
        "C:\\evil.gguf",
        "C:evil.gguf",
        "\\\\host\\x.gguf",
        "nul.gguf",
        "COM1.gguf",
        "a/aux.gguf",
        "evil.gguf ",
        "a//evil.gguf",
        "evil\n.gguf",
        "\u{1b}[31m.gguf",
        "evil\0.gguf",
        "",
        "evil.gguf:stream.gguf",
        "./evil.gguf",
        "model\u{202e}fugg.exe",
    ];
    let deep = format!("{}evil.gguf", "a/".repeat(17));
    for name in names.into_iter().chain([deep.as_str()]) {
        let world = World::new();
        world.siblings(json!([file(name)]));
        let error = world.error();
        assert!(error.contains("no model") && error.contains("which rotor does not write"), "{name:?}: {error}");
    }
    // Beside a good file a bad name is left out.
    let world = World::new();
    let good = json!({"rfilename": "m-i2_s.gguf"});
    world.siblings(json!([file("../x-i2_s.gguf"), good]));
    let hub = Hub::new(&world.settings()).unwrap();
    hub.pull(&Reference::parse("org/model").unwrap(), &PullOptions::default(), &mut |_| {}).unwrap();
    world.nothing_outside();
}

#[test]
fn lists_that_are_none() {
    let hash = "a".repeat(64);
    let cases: Vec<(Kind, &str)> = vec![
        (Kind::Json(json!({"sha": "../../../evil"})), "sha has to be a commit"),
        (Kind::Json(json!({"sha": "A".repeat(40)})), "sha has to be a commit"),
        (Kind::Json(json!({"sha": null})), "sha has to be a commit"),
        (Kind::Json(json!({"siblings": [file("a.gguf"), file("a.gguf")]})), "listed once"),
        (Kind::Json(json!({"siblings": vec![file(&hash); 100_001]})), "at most 100000 files"),
        (Kind::Json(json!({"siblings": "none"})), "JSON as the hub writes it"),
        (Kind::Json(json!({"siblings": [{"rfilename": "a.gguf", "size": -1}]})), "JSON as the hub writes it"),
        (Kind::Status(200, vec![], json!("<html>")), "JSON as the hub writes it"),
        (Kind::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[[[[[".to_vec()), "JSON as the hub writes it"),
        (Kind::Raw(vec![b'['; 1 << 20]), "127.0.0.1"),
    ];
    for (kind, words) in cases {
        let world = World::new();
        let shown = format!("{kind:?}").chars().take(80).collect::<String>();
        world.hub.faults(Fault { place: Place::Info, kind, skip: 0, times: 9 });
        let error = world.error();
        assert!(error.contains(words), "{shown}: {error}");
    }
    // Nesting without end in few bytes.
    let world = World::new();
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{deep}", deep.len());
    world.hub.fault(Place::Info, Kind::Raw(answer.into_bytes()));
    assert!(world.error().contains("JSON as the hub writes it"));
}

#[test]
fn answers_without_end() {
    let start = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}").into_bytes();
    let cases: Vec<(Kind, &str)> = vec![
        (
            Kind::Endless(start("Transfer-Encoding: identity\r\n\r\n{\"id\":\""), vec![b'x'; 1 << 16]),
            "has to end before",
        ),
        (
            Kind::Endless(start("Content-Length: 99999999999999\r\n\r\n["), b"{\"rfilename\":\"a\"},".repeat(1000)),
            "has to end before",
        ),
        (Kind::Endless(start("X: "), vec![b'y'; 1 << 16]), "headers of an answer have to be shorter"),
        (Kind::Endless(start(""), b"X-Y: z\r\n".repeat(1000)), "127.0.0.1"),
    ];
    for (kind, words) in cases {
        let world = World::new();
        world.hub.faults(Fault { place: Place::Info, kind, skip: 0, times: 99 });
        let error = world.error();
        assert!(error.contains(words), "{words}: {error}");
    }
    // A header of a megabyte, and then a good answer's end.
    let world = World::new();
    let answer = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 2\r\n\r\n{{}}", "a".repeat(1 << 20));
    world.hub.fault(Place::Info, Kind::Raw(answer.into_bytes()));
    assert!(world.error().contains("shorter than 64 kB"));
}

#[test]
fn an_error_that_does_not_end() {
    let world = World::new();
    let start = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: identity\r\n\r\n".to_vec();
    let started = Instant::now();
    // Eight bytes a moment: never silent, and far from the bytes of an error within the test.
    world.hub.fault(Place::Info, Kind::Trickle(start, vec![b'x'; 8], Duration::from_millis(100)));
    assert!(world.error().contains("answered 403"));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    // What turns a line around on a screen is left out of what is quoted.
    world.hub.fault(Place::Info, Kind::Status(403, vec![], json!({"error": "a\u{1b}[2J\u{202e}b"})));
    assert!(world.error().contains("answered 403: a[2Jb"));
}

#[test]
fn redirects_that_lead_nowhere() {
    let world = World::new();
    let again = format!("{}/org/model/resolve/main/m-i2_s.gguf", world.hub.url());
    let (long, longer) = (format!("/{}", "a".repeat(50_000)), format!("file:///{}", "a".repeat(50_000)));
    for (to, words) in [
        (again.as_str(), "10 times from one address to the next"),
        ("file:///etc/passwd", "http or https address, not file:///etc/passwd"),
        ("gopher://127.0.0.1/", "http or https"),
        ("http://", "http or https"),
        ("http:///x", "http or https"),
        ("http://127.0.0.1:99999/", "http or https"),
        (long.as_str(), "answered 404"),
        (longer.as_str(), "http or https"),
    ] {
        let world = World::new();
        let kind = Kind::Redirect(to.replace(again.as_str(), "/org/model/resolve/main/m-i2_s.gguf"));
        world.hub.faults(Fault { place: Place::Resolve, kind, skip: 0, times: 99 });
        let error = world.error();
        assert!(error.contains(words), "{to}: {error}");
    }
}

#[test]
fn hashes_that_are_paths() {
    for etag in ["../../evil", "a", &"g".repeat(64), "\"", "\u{80}", &"../".repeat(20)] {
        let world = World::new();
        // The list has no hash and there is no tree, so that the file's own answer decides.
        world.siblings(json!([{"rfilename": "m-i2_s.gguf"}]));
        let none = Kind::Status(404, vec![], json!({}));
        world.hub.faults(Fault { place: Place::Tree, kind: none, skip: 0, times: 9 });
        world.hub.faults(Fault { place: Place::Resolve, kind: Kind::Etag(etag.into()), skip: 0, times: 9 });
        let error = world.error();
        assert!(error.contains("checksum of a file has to be told"), "{etag:?}: {error}");
    }
    for bad in ["../../evil", &"A".repeat(64)] {
        let world = World::new();
        world.siblings(json!([{"rfilename": "m-i2_s.gguf", "size": 5000, "lfs": {"sha256": bad, "size": 5000}}]));
        // Such a hash is none: the tree has the right one.
        let hub = Hub::new(&world.settings()).unwrap();
        hub.pull(&Reference::parse("org/model").unwrap(), &PullOptions::default(), &mut |_| {}).unwrap();
        world.nothing_outside();
    }
    // Control characters in a header are no HTTP.
    let world = World::new();
    world.hub.fault(
        Place::Resolve,
        Kind::Raw(b"HTTP/1.1 200 OK\r\nETag: \"\x01\x02\"\r\nContent-Length: 0\r\n\r\n".to_vec()),
    );
    assert!(world.error().contains("127.0.0.1"));
}

#[test]
fn bodies_that_are_not_what_was_announced() {
    let world = World::new();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".as_bytes().to_vec();
    world.hub.faults(Fault { place: Place::Storage, kind: Kind::Endless(head, vec![9; 1 << 16]), skip: 0, times: 9 });
    assert!(world.error().contains("SHA-256"));
    let blobs = world.cache().join("models--org--model").join("blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);

    let world = World::new();
    let kind = Kind::Raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde".to_vec());
    world.hub.fault(Place::Storage, kind);
    assert!(world.error().contains("Content-Encoding gzip"));
}

#[test]
fn another_repository_than_the_one_asked_for() {
    let world = World::new();
    world.hub.fault(Place::Info, Kind::Json(json!({"id": "microsoft/bitnet-b1.58-2B-4T-gguf"})));
    let hub = Hub::new(&world.settings()).unwrap();
    hub.pull(&Reference::parse("org/model").unwrap(), &PullOptions::default(), &mut |_| {}).unwrap();
    world.nothing_outside();
}
