//! Models by name, through the real binary, from a hub on loopback.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]
#![cfg(feature = "hub")]

mod common;
#[path = "../../rotor-hub/tests/hub/mod.rs"]
mod hub;

use common::{Ran, command, path_text, ran, rotor, tiny};
use hub::{Kind, Options, Place, TestHub};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NAME: &str = "org/tiny-gguf";

/// A hub with the synthetic model, and a home without any.
struct World {
    folder: tempfile::TempDir,
    hub: TestHub,
}

impl World {
    fn new() -> World {
        let world = World::empty(Options::default());
        fs::copy(tiny(), world.repository("tiny-gguf").join("tiny-i2_s.gguf")).unwrap();
        world
    }

    fn empty(options: Options) -> World {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("hub")).unwrap();
        let hub = TestHub::start(&folder.path().join("hub"), options);
        World { folder, hub }
    }

    /// The folder of a repository on the hub.
    fn repository(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join("hub").join("org").join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("home").join("hub")
    }

    /// The command in an environment of its own.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_STATE_HOME", "LLAMA_CACHE", "OLLAMA_MODELS"] {
            command.env_remove(name);
        }
        let home = self.folder.path().join("home");
        command.env("HF_ENDPOINT", self.hub.url()).env("HF_HOME", &home).env("HOME", &home).env("USERPROFILE", &home);
    }

    fn rotor(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.rotor(&["list", "--json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        listed["models"].as_array().unwrap().clone()
    }
}

#[test]
fn a_pulled_model_goes_by_its_name_everywhere() {
    let world = World::new();
    let refused = world.rotor(&["run", NAME, "-p", "Hello"]);
    assert_eq!(refused.code, 1);
    let hint = format!("no model of that name on this machine: `rotor pull {NAME}` fetches it");
    assert!(refused.error().contains(&hint), "{}", refused.stderr);
    assert!(world.hub.log().is_empty(), "nothing is fetched unasked");

    let pulled = world.rotor(&["pull", NAME]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    let path = pulled.stdout.trim();
    assert_eq!(fs::read(path).unwrap(), fs::read(tiny()).unwrap());
    assert!(pulled.stderr.contains("tiny-i2_s.gguf") && pulled.stderr.contains("(100 %"), "{}", pulled.stderr);
    let again = world.rotor(&["pull", NAME]);
    assert!(again.stderr.contains("everything was here already"), "{}", again.stderr);
    world.hub.reset();

    let text = world.folder.path().join("text");
    fs::write(&text, "A text of some words, again and again. ".repeat(20)).unwrap();
    let (text, out) = (path_text(&text).to_owned(), world.folder.path().join("out"));
    let out = path_text(&out);
    let commands: [&[&str]; 8] = [
        &["run", "MODEL", "-p", "Hello", "-n", "4"],
        &["inspect", "MODEL"],
        &["tokenize", "MODEL", "Hello"],
        &["logits", "MODEL", "--ids", "1,2", "-o", &format!("{out}.safetensors")],
        &["perplexity", "MODEL", &text, "--ctx", "16", "--chunks", "1"],
        &["convert", "MODEL", &format!("{out}.gguf"), "--type", "tq2_0"],
        &["extract", "MODEL", "--layer", "0", "--as", "i8", "-o", &format!("{out}.npz")],
        &["diff", "MODEL", path],
    ];
    for arguments in commands {
        for name in [NAME, "ORG/Tiny-GGUF", "tiny-gguf"] {
            let arguments: Vec<&str> =
                arguments.iter().map(|word| if *word == "MODEL" { name } else { word }).collect();
            let run = world.rotor(&arguments);
            assert_eq!(run.code, 0, "{arguments:?}: {}", run.stderr);
        }
    }
    assert!(world.hub.log().is_empty(), "a model that is here needs no network");
    // Where a path exists, the path is meant.
    let here = world.folder.path().join("org").join("tiny-gguf");
    fs::create_dir_all(here.parent().unwrap()).unwrap();
    fs::write(&here, "no model").unwrap();
    let mut run = world.command(&["inspect", NAME]);
    assert_eq!(ran(run.current_dir(world.folder.path()).output().unwrap()).code, 1);
}

#[test]
fn models_are_listed_shown_and_removed() {
    let world = World::new();
    let empty = world.rotor(&["list"]);
    assert_eq!((empty.code, empty.stdout.as_str()), (0, ""));
    assert!(empty.stderr.contains("rotor list --known"), "{}", empty.stderr);
    world.rotor(&["pull", NAME]);
    let ollama = world.folder.path().join("home").join(".ollama").join("models");
    let manifest = ollama.join("manifests").join("registry.ollama.ai").join("library").join("tiny");
    fs::create_dir_all(&manifest).unwrap();
    fs::create_dir_all(ollama.join("blobs")).unwrap();
    let digest = world.hub.sha256(NAME, "tiny-i2_s.gguf");
    fs::copy(tiny(), ollama.join("blobs").join(format!("sha256-{digest}"))).unwrap();
    let layer = format!(r#"{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{digest}"}}"#);
    fs::write(manifest.join("latest"), format!(r#"{{"layers":[{layer}]}}"#)).unwrap();

    let lm_studio = world.folder.path().join("home").join(".lmstudio").join("models").join("pub").join("tiny");
    fs::create_dir_all(&lm_studio).unwrap();
    fs::copy(tiny(), lm_studio.join("t-I2_S.gguf")).unwrap();

    let list = world.rotor(&["list"]).stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{list}");
    assert!(lines[1].starts_with(NAME) && lines[1].ends_with("Hugging Face"), "{list}");
    assert!(lines[2].starts_with("ollama/tiny:latest") && lines[2].ends_with("Ollama"), "{list}");
    assert!(lines[3].starts_with("lmstudio/pub/tiny/t-I2_S.gguf") && lines[3].ends_with("LM Studio"), "{list}");
    for name in ["ollama/tiny:latest", "lmstudio/pub/tiny/t-I2_S.gguf"] {
        let run = world.rotor(&["run", name, "-p", "Hello", "-n", "2"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert!(world.rotor(&["inspect", "lmstudio/none.gguf"]).error().contains("no model of that name"));

    let show = world.rotor(&["show", NAME]).stdout;
    assert!(show.contains(&world.hub.commit(NAME)) && show.contains("main"), "{show}");
    let show = world.rotor(&["show", "bitnet-2b"]).stdout;
    assert!(show.contains("`rotor pull bitnet-2b`") && show.contains("microsoft/bitnet-b1.58-2B-4T-gguf"), "{show}");
    let known = world.rotor(&["list", "--known"]).stdout;
    assert!(known.contains("bitnet-2b") && known.contains("1.19 GB"), "{known}");

    let refused = world.rotor(&["rm", "ollama/tiny:latest"]);
    assert!(refused.error().contains("`ollama rm tiny:latest`"), "{}", refused.stderr);
    assert_eq!(world.rotor(&["rm"]).code, 2);
    assert!(world.rotor(&["rm", "org/none"]).error().contains("`rotor list`"));
    let removed = world.rotor(&["rm", NAME, "--json"]);
    let freed: Value = serde_json::from_str(&removed.stdout).unwrap();
    assert!(freed["freed"].as_u64().unwrap() >= fs::metadata(tiny()).unwrap().len());
    assert_eq!(world.listed().len(), 2);
}

#[test]
fn what_cannot_be_run_is_not_fetched() {
    let world = World::empty(Options::default());
    let mut bytes = fs::read(tiny()).unwrap();
    let name = b"bitnet-b1.58";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    bytes[at..at + name.len()].copy_from_slice(b"bitnet-c2.00");
    fs::write(world.repository("other").join("other.gguf"), &bytes).unwrap();
    let refused = world.rotor(&["pull", "org/other"]);
    assert_eq!(refused.code, 1);
    assert!(refused.error().contains("other.gguf was not fetched: ") && refused.error().contains("bitnet-c2.00"));
    assert!(world.listed().is_empty());
    assert_eq!(world.rotor(&["pull", "org/other", "--any"]).code, 0);
}

#[test]
fn a_dry_run_and_a_folder_of_ones_own() {
    let world = World::new();
    let dry = world.rotor(&["pull", NAME, "--dry-run"]);
    assert!(dry.stdout.starts_with("org/tiny-gguf: tiny-i2_s.gguf, "), "{dry:?}");
    assert_eq!(world.hub.downloads(), 0);
    let folder = world.folder.path().join("models");
    let pulled = world.rotor(&["pull", NAME, "--local-dir", path_text(&folder)]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert_eq!(fs::read(folder.join("tiny-i2_s.gguf")).unwrap(), fs::read(tiny()).unwrap());
    assert!(world.listed().is_empty());
}

#[test]
fn a_checkpoint_is_a_folder_with_a_name() {
    let world = World::empty(Options::default());
    let folder = world.repository("tiny");
    fs::remove_dir(&folder).unwrap();
    assert_eq!(rotor(["synth", "tiny", path_text(&folder), "--type", "hf"]).code, 0);
    fs::write(folder.join("README.md"), "read me").unwrap();
    let pulled = world.rotor(&["pull", "org/tiny"]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    let run = |model: &str| world.rotor(&["run", model, "-p", "Hello", "-n", "8"]).stdout;
    assert_eq!(run("org/tiny"), run(path_text(&tiny())));
    assert_eq!(world.listed()[0]["name"], "org/tiny");
}

#[test]
fn offline_mode_uses_what_is_here_and_asks_nobody() {
    let world = World::new();
    let offline = |arguments: &[&str]| ran(world.command(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap());
    for arguments in [["pull", NAME].as_slice(), &["run", NAME, "-p", "x"]] {
        assert!(offline(arguments).error().contains("HF_HUB_OFFLINE"), "{arguments:?}");
    }
    world.rotor(&["pull", NAME]);
    world.hub.reset();
    assert_eq!(offline(&["pull", NAME]).code, 0);
    assert_eq!(offline(&["run", NAME, "-p", "Hello", "-n", "2"]).code, 0);
    assert!(world.hub.log().is_empty());
}

#[test]
fn shells_complete_names() {
    let world = World::new();
    world.rotor(&["pull", NAME]);
    let complete = |words: &[&str]| {
        let mut command = world.command(&["--"]);
        command.args(words).env("ROTOR_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        let run = ran(command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["rotor", "run", "org/t"]), [NAME]);
    assert!(complete(&["rotor", "convert", "bitnet-2"]).contains(&"bitnet-2b".to_owned()));
    assert!(complete(&["rotor", "perp"]).contains(&"perplexity".to_owned()));
}

#[test]
fn gated_and_missing_models_say_what_to_do() {
    let world = World::new();
    let missing = world.rotor(&["pull", "org/none"]);
    assert!(missing.error().contains("has no model org/none"), "{}", missing.stderr);
    assert!(world.rotor(&["pull", "tiny:"]).error().contains("expected REPO[:FILE or QUANT][@REVISION]"));
    let gated = World::empty(Options { gated: true, ..Options::default() });
    fs::copy(tiny(), gated.repository("tiny-gguf").join("tiny-i2_s.gguf")).unwrap();
    assert!(gated.rotor(&["pull", NAME]).error().contains("accept its terms at http://127.0.0.1:"));
    let with_token = ran(gated.command(&["pull", NAME]).env("HF_TOKEN", "hf_test").output().unwrap());
    assert_eq!(with_token.code, 0, "{}", with_token.stderr);
}

#[test]
fn verify_tells_a_sound_model_from_a_damaged_one() {
    let world = World::new();
    let pulled = world.rotor(&["pull", NAME]).stdout;
    let record = world.folder.path().join("fingerprint.json");
    let sound = world.rotor(&["verify", NAME, "--record", path_text(&record)]);
    assert_eq!(sound.code, 0, "{}{}", sound.stdout, sound.stderr);
    let last = sound.stdout.lines().last().unwrap();
    assert!(last.starts_with("rotor ") && last.contains(" verify: ok") && last.contains("fingerprint "), "{last}");
    // Where the name links to no blob, whose name is the checksum, the hub is asked for it.
    let whose = if hub::links() { "the record made when it was fetched" } else { "the hub's record" };
    assert!(sound.stdout.contains(&format!("SHA-256 as {whose} has it")), "{}", sound.stdout);
    let again = world.rotor(&["verify", path_text(&tiny()), "--compare", path_text(&record), "--json"]);
    let report: Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(again.code == 0 && again.stdout.contains("all 64 tokens as recorded"), "{}", again.stdout);
    let checks = report["checks"].as_array().unwrap();
    let outcome = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap()["outcome"].clone();
    assert_eq!(outcome("checksum"), "skipped");
    // Where an activation falls on the other side of a rounding tie, as on some CPUs, it is a warning.
    assert!(["ok", "warning"].map(Value::from).contains(&outcome("kernels")), "{}", again.stdout);

    // A fingerprint of something else, and one that is none.
    let mut recorded: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    recorded["tokens"][3] = 7.into();
    recorded["margins"][3] = 0.5.into();
    fs::write(&record, recorded.to_string()).unwrap();
    let other = world.rotor(&["verify", NAME, "--compare", path_text(&record)]);
    assert_eq!(other.code, 1);
    assert!(other.stdout.contains("token 3 is another than recorded"), "{}", other.stdout);
    recorded["tokens"] = serde_json::json!([]);
    fs::write(&record, recorded.to_string()).unwrap();
    let compared = world.rotor(&["verify", NAME, "--compare", path_text(&record)]);
    assert!(compared.error().contains("expected 64 tokens with a margin each, found 0 tokens"), "{compared:?}");
    fs::write(&record, "{}").unwrap();
    assert!(world.rotor(&["verify", NAME, "--compare", path_text(&record)]).error().contains("is no fingerprint"));

    // A hole of zeros in the middle of the weights.
    let mut bytes = fs::read(pulled.trim()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100_000].fill(0);
    let blob = fs::canonicalize(pulled.trim()).unwrap();
    fs::write(&blob, &bytes).unwrap();
    let damaged = world.rotor(&["verify", NAME]);
    assert_eq!(damaged.code, 1, "{}", damaged.stdout);
    assert!(damaged.stdout.contains("fetch it again"), "{}", damaged.stdout);
    assert!(damaged.stdout.lines().last().unwrap().contains("verify: FAILED (checksum"), "{}", damaged.stdout);

    // What cannot be opened, or not be read as weights, is reported like any other fault.
    let random: Vec<u8> = (0..100_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut invalid = fs::read(tiny()).unwrap();
    invalid[middle..middle + random.len()].copy_from_slice(&random);
    for (bytes, failed) in [(&bytes[..middle], "structure"), (&[], "structure"), (&invalid, "weights")] {
        fs::write(&blob, bytes).unwrap();
        let damaged = world.rotor(&["verify", NAME]);
        assert_eq!((damaged.code, damaged.stderr.contains("error: ")), (1, false), "{damaged:?}");
        let line = damaged.stdout.lines().last().unwrap();
        assert!(
            line.starts_with("rotor ") && line.contains("FAILED (checksum, ") && line.contains(&format!("{failed})")),
            "{line}"
        );
        let report: Value = serde_json::from_str(&world.rotor(&["verify", NAME, "--json"]).stdout).unwrap();
        assert_eq!((&report["outcome"], &report["digest"]), (&"failed".into(), &Value::Null));
    }
    assert!(world.rotor(&["verify", "none.gguf"]).error().contains("cannot open none.gguf"));
}

/// Kills pulls at fifty moments; what is left is a model only if it is the model, and each pull goes on where the last one
/// stopped.
#[test]
fn a_pull_that_is_killed_leaves_nothing_that_looks_like_a_model() {
    const SIZE: usize = 24 << 20;
    let world = World::empty(Options { pause: Duration::from_millis(1), ..Options::default() });
    let contents: Vec<u8> = (0..SIZE as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(world.repository("big").join("big-i2_s.gguf"), &contents).unwrap();
    let blobs = world.cache().join("models--org--big").join("blobs");
    let part = blobs.join(format!("{}.part", world.hub.sha256("org/big", "big-i2_s.gguf")));
    let (mut state, mut finished, mut resumed) = (12345_u32, 0, 0);
    // Starting a process takes a system its own time, and nothing is pulled meanwhile.
    let starting = Instant::now();
    world.listed();
    let starting = starting.elapsed();
    for _ in 0..50 {
        let before = fs::metadata(&part).map_or(0, |found| found.len());
        world.hub.reset();
        let mut pull = world.command(&["pull", "org/big", "--any"]);
        let mut child = pull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(starting + Duration::from_millis(u64::from(state >> 24)));
        child.kill().unwrap();
        child.wait().unwrap();
        let range = world.hub.log().into_iter().find_map(|request| request.range);
        if before > 0
            && let Some(range) = range
        {
            assert_eq!(range, format!("bytes={before}-"));
            resumed += 1;
        }
        for model in world.listed() {
            assert_eq!(fs::read(model["path"].as_str().unwrap()).unwrap(), contents);
            finished += 1;
            assert_eq!(world.rotor(&["rm", "org/big"]).code, 0);
        }
    }
    println!("{resumed} of 50 pulls went on with what was there, {finished} came to their end before they were killed");
    assert!(resumed > 5, "{resumed}");
    world.hub.reset();
    let last = world.rotor(&["pull", "org/big", "--any"]);
    assert_eq!(last.code, 0, "{}", last.stderr);
    assert_eq!(fs::read(last.stdout.trim()).unwrap(), contents);
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), usize::from(hub::links()));
}

#[test]
fn errors_of_the_network_are_one_sentence() {
    let world = World::new();
    world.hub.fault(Place::Info, Kind::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x1b[2".to_vec()));
    assert!(world.rotor(&["pull", NAME]).error().contains("JSON as the hub writes it"));
    let nobody = ran(world.command(&["pull", NAME]).env("HF_ENDPOINT", "https://127.0.0.1:1/x y").output().unwrap());
    assert!(nobody.error().contains("HF_ENDPOINT"), "{}", nobody.stderr);
}

/// A newcomer's first and second session, on a terminal.
#[cfg(target_os = "linux")]
mod session {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::process::Child;
    use std::sync::mpsc::{Receiver, channel};

    /// A program on a terminal of its own.
    struct Terminal {
        child: Child,
        keyboard: File,
        screen: Receiver<Vec<u8>>,
        seen: String,
    }

    impl Terminal {
        fn start(world: &World, arguments: &[&str]) -> Terminal {
            let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&controller).unwrap();
            unlockpt(&controller).unwrap();
            let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
            let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
            // The terminal has to be the program's controlling one, which only a session of its own can have.
            let mut command = Command::new("setsid");
            command.args(["--ctty", env!("CARGO_BIN_EXE_rotor")]).args(arguments).env("TERM", "xterm");
            for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROTOR_")) {
                command.env_remove(name);
            }
            world.environment(&mut command);
            let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
            let keyboard = File::from(controller);
            let (mut reader, (send, screen)) = (keyboard.try_clone().unwrap(), channel());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                // Reading fails when the program has closed the terminal.
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    if send.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
            Terminal { child, keyboard, screen, seen: String::new() }
        }

        /// Waits until the screen shows a text, and forgets what came before its end.
        fn expect(&mut self, text: &str) -> String {
            let started = Instant::now();
            loop {
                if let Some(at) = self.seen.find(text) {
                    let rest = self.seen.split_off(at + text.len());
                    return std::mem::replace(&mut self.seen, rest);
                }
                let left = Duration::from_secs(60).saturating_sub(started.elapsed());
                match self.screen.recv_timeout(left) {
                    Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                    Err(error) => panic!("{text:?} does not come ({error}); the screen has {:?}", self.seen),
                }
            }
        }

        fn type_line(&mut self, text: &str) {
            self.keyboard.write_all(format!("{text}\r").as_bytes()).unwrap();
        }

        fn wait(mut self) -> i32 {
            self.child.wait().unwrap().code().unwrap()
        }
    }

    #[test]
    fn a_newcomer_is_asked_fetches_and_talks_and_the_second_time_needs_no_network() {
        let world = World::new();
        let mut terminal = Terminal::start(&world, &["run", NAME, "-n", "8"]);
        let asked = terminal.expect("Fetch it now? [Y/n] ");
        assert!(asked.contains("org/tiny-gguf is not on this machine"), "{asked}");
        assert!(asked.contains("tiny-i2_s.gguf") && asked.contains("licence mit"), "{asked}");
        assert_eq!(world.hub.downloads(), 0, "nothing comes before the answer");
        terminal.type_line("");
        terminal.expect("checked them against the hub's record");
        terminal.expect("/help lists the commands");
        terminal.expect("> ");
        terminal.type_line("Hello there");
        terminal.expect("> ");
        terminal.type_line("/exit");
        terminal.expect("generated: ");
        assert_eq!(terminal.wait(), 0);

        world.hub.reset();
        let mut terminal = Terminal::start(&world, &["run", NAME, "-n", "8"]);
        terminal.expect("/help lists the commands");
        terminal.expect("> ");
        terminal.type_line("/exit");
        assert_eq!(terminal.wait(), 0);
        assert!(world.hub.log().is_empty(), "{:?}", world.hub.log());
    }

    #[test]
    fn who_declines_fetches_nothing() {
        let world = World::new();
        let mut terminal = Terminal::start(&world, &["run", NAME]);
        terminal.expect("[Y/n] ");
        terminal.type_line("n");
        terminal.expect("`rotor pull org/tiny-gguf` fetches it");
        assert_eq!(terminal.wait(), 1);
        assert_eq!(world.hub.downloads(), 0);
        assert!(world.listed().is_empty());
    }
}
