//! Pulling from a hub that misbehaves in every way a network can.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod hub;

use hub::{Fault, Kind, Options, Place, TestHub};
use rotor_hub::{Event, Hub, HubError, Library, PullOptions, Pulled, Reference, Settings};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const REPO: &str = "org/model";
const FILE: &str = "model-i2_s.gguf";
const SIZE: usize = 3_000_000;

/// A hub with a model, and an empty cache.
struct World {
    folder: tempfile::TempDir,
    hub: TestHub,
}

impl World {
    fn new(options: Options) -> World {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("hub").join("org").join("model");
        fs::create_dir_all(&repo).unwrap();
        fs::write(repo.join(FILE), contents()).unwrap();
        fs::write(repo.join("model-f16.gguf"), b"not ternary").unwrap();
        fs::write(repo.join("README.md"), b"read me").unwrap();
        let hub = TestHub::start(&folder.path().join("hub"), options);
        World { folder, hub }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.url().into(),
            token: None,
            cache: self.cache(),
            offline: false,
            without_links: false,
            stall: Duration::from_secs(3),
            back_off: Duration::from_millis(10),
            certificates: None,
        }
    }

    fn pull(&self) -> Result<Pulled, HubError> {
        self.pull_with(&self.settings(), REPO, &PullOptions::default())
    }

    fn pull_with(&self, settings: &Settings, name: &str, options: &PullOptions<'_>) -> Result<Pulled, HubError> {
        Hub::new(settings)?.pull(&Reference::parse(name)?, options, &mut |_| {})
    }

    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join("models--org--model").join("blobs")).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What is in the cache as a model, whole and right or not at all.
    fn models(&self) -> Vec<String> {
        let library = Library::new(&self.settings(), &|_| None);
        let models = library.models();
        for model in &models {
            assert_eq!(fs::read(&model.path).unwrap(), contents(), "{}", model.name);
        }
        models.into_iter().map(|model| model.name).collect()
    }

    fn no_token_left_the_hub(&self) {
        assert!(self.hub.log().iter().all(|request| !request.storage || request.token.is_none()));
    }
}

fn contents() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..SIZE).map(|_| next()).collect()
}

fn status(code: u16, headers: Vec<(&'static str, String)>) -> Kind {
    Kind::Status(code, headers, json!({"error": format!("fault {code}")}))
}

fn times(place: Place, kind: Kind, times: usize) -> Fault {
    Fault { place, kind, skip: 0, times }
}

#[test]
fn a_model_is_pulled_into_the_hubs_own_layout() {
    let world = World::new(Options::default());
    let pulled = world.pull().unwrap();
    assert_eq!(pulled.fetched, SIZE as u64);
    assert_eq!(fs::read(&pulled.path).unwrap(), contents());
    let (commit, sha) = (world.hub.commit(REPO), world.hub.sha256(REPO, FILE));
    let folder = world.cache().join("models--org--model");
    assert_eq!(fs::read_to_string(folder.join("refs").join("main")).unwrap(), commit);
    assert_eq!(world.blobs(), if hub::links() { vec![sha.clone()] } else { vec![] });
    #[cfg(unix)]
    {
        let link = folder.join("snapshots").join(&commit).join(FILE);
        assert_eq!(fs::read_link(link).unwrap(), Path::new("../../blobs").join(&sha));
    }
    assert!(pulled.plan.choice.why.starts_with("I2_S"), "{}", pulled.plan.choice.why);
    // The file is alone in its repository, and transformers would ask for a configuration each time.
    assert_eq!(fs::read(folder.join(".no_exist").join(&commit).join("config.json")).unwrap(), b"");

    world.hub.reset();
    assert_eq!(world.pull().unwrap().fetched, 0);
    assert_eq!(world.hub.downloads(), 0);
    assert_eq!(world.models(), [REPO]);
}

#[test]
fn the_cache_does_without_links() {
    let world = World::new(Options::default());
    let settings = Settings { without_links: true, ..world.settings() };
    for fetched in [SIZE as u64, 0] {
        let pulled = world.pull_with(&settings, REPO, &PullOptions::default()).unwrap();
        assert_eq!(pulled.fetched, fetched);
        assert!(fs::symlink_metadata(&pulled.path).unwrap().is_file());
    }
    assert!(world.blobs().is_empty());
    assert_eq!(world.models(), [REPO]);
}

#[test]
fn a_mirror_without_sizes_and_hashes_is_asked_for_them() {
    let world = World::new(Options { blobs: false, page: 1, ..Options::default() });
    assert_eq!(world.pull().unwrap().fetched, SIZE as u64);
    // Without a tree either, each file's own answer says what it is.
    let world = World::new(Options { blobs: false, ..Options::default() });
    world.hub.faults(times(Place::Tree, status(404, vec![]), 9));
    assert_eq!(world.pull().unwrap().fetched, SIZE as u64);
    assert_eq!(world.models(), [REPO]);
}

#[test]
fn whatever_passes_is_waited_out() {
    let after = |seconds: &str| vec![("Retry-After", seconds.to_owned())];
    let cases: Vec<(&str, Fault)> = vec![
        ("cut at once", times(Place::Storage, Kind::Cut { after: 0 }, 3)),
        ("cut", times(Place::Storage, Kind::Cut { after: 1_000_000 }, 2)),
        ("cut often", times(Place::Storage, Kind::Cut { after: 300_000 }, 20)),
        ("stall", times(Place::Storage, Kind::Stall { after: 500_000, time: Duration::from_secs(8) }, 1)),
        ("too short", times(Place::Storage, Kind::Length(-1), 1)),
        ("too long", times(Place::Storage, Kind::Length(1), 1)),
        ("corrupt", times(Place::Storage, Kind::Corrupt, 1)),
        ("429", times(Place::Storage, status(429, after("0")), 2)),
        ("503", times(Place::Storage, status(503, vec![]), 4)),
        ("408 at the hub", times(Place::Resolve, status(408, vec![]), 2)),
        ("500 at the list", times(Place::Info, status(500, vec![]), 2)),
        ("429 at the list", times(Place::Info, status(429, vec![("RateLimit", "\"api\";r=0;t=0".into())]), 2)),
        ("an expired signature", times(Place::Storage, status(403, vec![]), 2)),
        ("a wrong ETag", times(Place::Resolve, Kind::Etag("f".repeat(64)), 1)),
        ("no HTTP for a moment", times(Place::Info, Kind::Cut { after: 0 }, 2)),
    ];
    for (name, fault) in cases {
        let world = World::new(Options::default());
        world.hub.faults(fault);
        let pulled = world.pull().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fs::read(pulled.path).unwrap(), contents(), "{name}");
        assert_eq!(world.blobs().len(), usize::from(hub::links()), "{name}");
        world.no_token_left_the_hub();
    }
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let world = World::new(Options::default());
    world.hub.faults(times(Place::Storage, Kind::Cut { after: 1_000_000 }, 1));
    world.hub.faults(times(Place::Storage, Kind::Cut { after: 0 }, 9));
    let error = world.pull().unwrap_err().to_string();
    assert!(error.contains("1000000 of 3000000 bytes are kept") && error.contains("cut"), "{error}");
    assert_eq!(world.blobs(), [format!("{}.part", world.hub.sha256(REPO, FILE))]);
    assert!(world.models().is_empty());

    world.hub.reset();
    assert_eq!(world.pull().unwrap().fetched, SIZE as u64 - 1_000_000);
    let ranges: Vec<_> = world.hub.log().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges.last().unwrap(), "bytes=1000000-");
    assert_eq!(world.models(), [REPO]);
}

#[test]
fn ranges_that_are_ignored_or_wrong_cost_a_second_download_and_nothing_else() {
    for (name, kind) in [
        ("ignored", Kind::NoRange),
        ("elsewhere", Kind::BadRange(-5)),
        ("not satisfiable", status(416, vec![("Content-Range", "bytes */7".into())])),
    ] {
        let world = World::new(Options::default());
        world.hub.fault(Place::Storage, Kind::Cut { after: 1_000_000 });
        world.hub.fault(Place::Storage, kind);
        assert_eq!(fs::read(world.pull().unwrap().path).unwrap(), contents(), "{name}");
    }
    // A host that never resumes and always breaks off is given up.
    let world = World::new(Options::default());
    for _ in 0..30 {
        world.hub.fault(Place::Storage, Kind::Cut { after: 1_000_000 });
        world.hub.fault(Place::Storage, Kind::NoRange);
    }
    assert!(world.pull().is_ok(), "every second answer is whole");
}

#[test]
fn a_wrong_beginning_is_noticed() {
    let world = World::new(Options::default());
    let blobs = world.cache().join("models--org--model").join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.part", world.hub.sha256(REPO, FILE)));
    for size in [1000, SIZE, SIZE + 5] {
        fs::write(&part, vec![7; size]).unwrap();
        assert_eq!(fs::read(world.pull().unwrap().path).unwrap(), contents());
        fs::remove_dir_all(world.cache().join("models--org--model").join("snapshots")).unwrap();
        let removed = fs::remove_file(blobs.join(world.hub.sha256(REPO, FILE)));
        assert_eq!(removed.is_ok(), hub::links());
    }
}

#[test]
fn what_stays_wrong_is_not_kept() {
    let world = World::new(Options::default());
    world.hub.faults(times(Place::Storage, Kind::Corrupt, 9));
    let error = world.pull().unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    assert!(error.to_string().contains(&world.hub.sha256(REPO, FILE)), "{error}");
    assert!(world.blobs().is_empty());
    assert!(world.models().is_empty());
}

#[test]
fn what_does_not_pass_is_a_clear_error() {
    let is = |error: HubError, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let world = World::new(Options::default());
    let named = |name: &str| world.pull_with(&world.settings(), name, &PullOptions::default()).unwrap_err();
    is(named("org/other"), &["has no model org/other", "check the name", "HF_TOKEN"]);
    is(named("org/model@dev"), &["no revision \"dev\"", "its branches are main"]);
    is(named("org/model:Q5_K"), &["no file \"Q5_K\"", "model-i2_s.gguf (3.00 MB)"]);
    is(named("org/model@0123456789012345678901234567890123456789"), &["no revision"]);

    world.hub.fault(Place::Info, status(403, vec![("X-Error-Message", "Access to this resource is disabled.".into())]));
    is(world.pull().unwrap_err(), &["answered 403", "Access to this resource is disabled."]);
    world.hub.fault(Place::Info, status(451, vec![("X-Request-Id", "Root=1-2".into())]));
    is(world.pull().unwrap_err(), &["answered 451", "fault 451", "request Root=1-2"]);
    world.hub.faults(times(Place::Info, status(503, vec![]), 9));
    is(world.pull().unwrap_err(), &["answered 503"]);
    world.hub.reset();
    world.hub.fault(Place::Info, status(429, vec![("Retry-After", "7200".into())]));
    is(world.pull().unwrap_err(), &["limits how much", "7200 s", "HF_TOKEN"]);
    world.hub.fault(Place::Info, status(429, vec![("Retry-After", u64::MAX.to_string())]));
    is(world.pull().unwrap_err(), &["limits how much"]);
    world.hub.faults(times(Place::Storage, status(503, vec![]), 9));
    is(world.pull().unwrap_err(), &["0 of 3000000 bytes are kept", "answered 503"]);
    world.hub.reset();
    world.hub.faults(times(Place::Storage, status(403, vec![]), 9));
    let text = world.pull().unwrap_err().to_string();
    assert!(!text.contains("HF_TOKEN") && !text.contains("secret"), "{text}");

    let nobody = Settings { endpoint: "http://127.0.0.1:1".into(), ..world.settings() };
    is(world.pull_with(&nobody, REPO, &PullOptions::default()).unwrap_err(), &["127.0.0.1:1: "]);
    let offline = Settings { offline: true, ..world.settings() };
    world.hub.reset();
    is(world.pull_with(&offline, REPO, &PullOptions::default()).unwrap_err(), &["HF_HUB_OFFLINE"]);
    assert!(world.hub.log().is_empty());
    assert!(world.models().is_empty());
}

#[test]
fn tokens_open_what_they_may_and_go_nowhere_else() {
    let world = World::new(Options { private: true, ..Options::default() });
    let text = world.pull().unwrap_err().to_string();
    assert!(text.contains("or it is private") && text.contains("HF_TOKEN"), "{text}");
    let with_token = Settings { token: Some("hf_test".into()), ..world.settings() };
    world.pull_with(&with_token, REPO, &PullOptions::default()).unwrap();
    assert!(world.hub.log().iter().any(|request| request.token.is_some()));
    world.no_token_left_the_hub();

    let world = World::new(Options { gated: true, ..Options::default() });
    let text = world.pull().unwrap_err().to_string();
    let page = format!("accept its terms at {}/org/model, then set HF_TOKEN", world.hub.url());
    assert!(text.contains(&page), "{text}");
    let wrong = Settings { token: Some("hf_other".into()), ..world.settings() };
    let text = world.pull_with(&wrong, REPO, &PullOptions::default()).unwrap_err().to_string();
    assert!(text.contains("accept its terms") && !text.contains("HF_TOKEN"), "{text}");
    let with_token = Settings { token: Some("hf_test".into()), ..world.settings() };
    world.pull_with(&with_token, REPO, &PullOptions::default()).unwrap();
    world.no_token_left_the_hub();
}

#[test]
fn a_full_disk_is_noticed_before_anything_comes() {
    let world = World::new(Options::default());
    let huge = json!({"siblings": [{"rfilename": "m-i2_s.gguf", "size": 10_u64.pow(18),
        "lfs": {"sha256": "a".repeat(64), "size": 10_u64.pow(18)}}]});
    world.hub.fault(Place::Info, Kind::Json(huge));
    let error = world.pull().unwrap_err();
    assert!(matches!(error, HubError::Disk { .. }), "{error}");
    assert!(world.blobs().is_empty());
}

#[test]
fn two_pulls_of_one_file_are_one_download() {
    two_pulls(false);
    two_pulls(true);
}

fn two_pulls(without_links: bool) {
    let world = World::new(Options::default());
    let settings = Settings { without_links, ..world.settings() };
    world.hub.fault(Place::Storage, Kind::Stall { after: 1_000_000, time: Duration::from_millis(300) });
    let waited = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut waited, hub) = (false, Hub::new(&settings).unwrap());
                    let reference = Reference::parse(REPO).unwrap();
                    hub.pull(&reference, &PullOptions::default(), &mut |event| {
                        waited |= matches!(event, Event::Waiting { .. });
                    })
                    .unwrap();
                    waited
                })
            })
            .collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).filter(|&waited| waited).count()
    });
    assert_eq!(waited, 1);
    let sent: u64 = world.hub.log().iter().map(|request| request.sent).sum();
    assert_eq!(sent, SIZE as u64);
    assert_eq!(world.models(), [REPO]);
}

#[test]
fn a_folder_of_ones_own_holds_the_files_themselves() {
    let world = World::new(Options::default());
    let folder = world.folder.path().join("here");
    let options = || PullOptions { local_dir: Some(folder.clone()), ..PullOptions::default() };
    let pulled = world.pull_with(&world.settings(), REPO, &options()).unwrap();
    assert_eq!(pulled.path, folder.join(FILE));
    assert_eq!(fs::read(&pulled.path).unwrap(), contents());
    let notes = folder.join(".cache").join("huggingface").join("download");
    let note = fs::read_to_string(notes.join(format!("{FILE}.metadata"))).unwrap();
    let lines: Vec<&str> = note.lines().collect();
    assert_eq!(lines[..2], [world.hub.commit(REPO), world.hub.sha256(REPO, FILE)]);
    assert!(!world.cache().exists());

    world.hub.reset();
    assert_eq!(world.pull_with(&world.settings(), REPO, &options()).unwrap().fetched, 0);
    fs::remove_dir_all(folder.join(".cache")).unwrap();
    assert_eq!(world.pull_with(&world.settings(), REPO, &options()).unwrap().fetched, 0);
    assert_eq!(world.hub.downloads(), 0);
    fs::write(folder.join(FILE), "a file of mine").unwrap();
    let error = world.pull_with(&world.settings(), REPO, &options()).unwrap_err();
    assert!(matches!(error, HubError::Taken { .. }), "{error}");
    assert_eq!(fs::read(folder.join(FILE)).unwrap(), b"a file of mine");
}

#[test]
fn what_cannot_be_run_is_refused_by_its_beginning() {
    use rotor_hub::Examined;
    let world = World::new(Options::default());
    let seen = std::cell::RefCell::new(Vec::new());
    let examine = |path: &Path, size: u64| {
        seen.borrow_mut().push((fs::metadata(path).unwrap().len(), size));
        Examined::Refused("it is a picture".into())
    };
    let options = PullOptions { examine: Some(&examine), ..PullOptions::default() };
    let error = world.pull_with(&world.settings(), REPO, &options).unwrap_err().to_string();
    assert_eq!(error, format!("{FILE} was not fetched: it is a picture"));
    let seen = seen.into_inner();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].0 < 2 << 20 && seen[0].1 == SIZE as u64, "{seen:?}");
    assert!(world.blobs().is_empty());
}

#[test]
fn a_pull_can_be_broken_off_and_resumed() {
    let world = World::new(Options::default());
    let asked = std::cell::Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) == 2;
    let options = PullOptions { cancelled: Some(&cancelled), ..PullOptions::default() };
    let error = world.pull_with(&world.settings(), REPO, &options).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert!(world.pull().unwrap().fetched < SIZE as u64);
    assert_eq!(world.models(), [REPO]);
}

#[test]
fn models_are_found_and_removed_by_name() {
    let world = World::new(Options::default());
    world.pull().unwrap();
    world.pull_with(&world.settings(), "org/model:f16", &PullOptions::default()).unwrap();
    let library = Library::new(&world.settings(), &|_| None);
    let path = |name: &str| library.find(name).map(|model| model.path).map_err(|error| error.to_string());
    let snapshot = world.cache().join("models--org--model").join("snapshots").join(world.hub.commit(REPO));
    for name in ["org/model", "ORG/Model", "model", "org/model:i2_s", "org/model@main", "model:model-i2_s.gguf"] {
        assert_eq!(path(name), Ok(snapshot.join(FILE)), "{name}");
    }
    let short = format!("org/model@{}", &world.hub.commit(REPO)[..8]);
    assert_eq!(path(&short), Ok(snapshot.join(FILE)));
    assert_eq!(path("org/model:f16"), Ok(snapshot.join("model-f16.gguf")));
    for name in ["org/none", "org/model@dev", "org/model:Q4_K", "../x", "bitnet-2b"] {
        assert!(path(name).unwrap_err().contains("no model of that name"), "{name}");
    }

    let removal = library.plan_removal("org/model:f16").unwrap();
    assert_eq!(removal.files(), ["model-f16.gguf"]);
    assert_eq!(library.remove(&removal).unwrap(), 11);
    assert_eq!(world.models(), [REPO]);
    let removal = library.plan_removal("model").unwrap();
    assert!(library.remove(&removal).unwrap() >= SIZE as u64);
    assert_eq!(fs::read_dir(world.cache()).unwrap().count(), 1, "only the folder of the locks");
    assert!(library.plan_removal("model").is_err());
}

#[test]
fn unfinished_downloads_are_swept_unless_somebody_goes_on_with_them() {
    let world = World::new(Options::default());
    world.hub.faults(times(Place::Storage, Kind::Cut { after: 1_000_000 }, 1));
    world.hub.faults(times(Place::Storage, Kind::Cut { after: 0 }, 9));
    world.pull().unwrap_err();
    let library = Library::new(&world.settings(), &|_| None);
    assert_eq!(library.unfinished().len(), 1);
    let lock = world.cache().join(".locks").join("models--org--model");
    let lock = fs::File::open(lock.join(format!("{}.lock", world.hub.sha256(REPO, FILE)))).unwrap();
    lock.lock().unwrap();
    assert!(library.unfinished().is_empty());
    assert_eq!(library.remove_unfinished().unwrap(), 0);
    drop(lock);
    assert_eq!(library.remove_unfinished().unwrap(), 1_000_000);
    assert!(world.blobs().is_empty());
}
