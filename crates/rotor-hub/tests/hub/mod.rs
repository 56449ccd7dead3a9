//! A small hub on loopback, with faults that can be switched on: what the tests pull from.
//!
//! `ROOT/ORG/NAME/...` is repository `ORG/NAME`, with one branch, `main`. Files from [`Options::large`] bytes on are answered by
//! a redirect to a second port, as the real hub's are by one to another host; no token may arrive there.

#![allow(dead_code, reason = "several test crates include this file, and each uses what it needs")]

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Whether symbolic links can be made here. Where they cannot, what was fetched moves from the blobs to its name.
#[cfg(unix)]
pub(crate) fn links() -> bool {
    true
}

#[cfg(windows)]
pub(crate) fn links() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::windows::fs::symlink_file("nothing", &link).is_ok() && link.is_symlink()
}

/// What the hub is like.
#[derive(Clone)]
pub(crate) struct Options {
    /// The token that private and gated repositories want.
    pub(crate) token: String,
    pub(crate) private: bool,
    pub(crate) gated: bool,
    /// Entries of a page of the tree.
    pub(crate) page: usize,
    /// Bytes from which a file is kept in the storage on the second port.
    pub(crate) large: u64,
    /// Whether the list of files has sizes and hashes.
    pub(crate) blobs: bool,
    /// A pause after every 256 KiB of contents.
    pub(crate) pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            token: "hf_test".into(),
            private: false,
            gated: false,
            page: 1000,
            large: 1024,
            blobs: true,
            pause: Duration::ZERO,
        }
    }
}

/// Where a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Info,
    Tree,
    Resolve,
    Storage,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The connection is closed after so many bytes of the body.
    Cut {
        after: u64,
    },
    /// Nothing comes for a while after so many bytes of the body.
    Stall {
        after: u64,
        time: Duration,
    },
    /// Content-Length is off by so much.
    Length(i64),
    /// A bit of the first byte is flipped.
    Corrupt,
    /// Everything comes, whatever range was asked for.
    NoRange,
    /// The range begins elsewhere.
    BadRange(i64),
    /// Another status.
    Status(u16, Vec<(&'static str, String)>, Value),
    Redirect(String),
    /// Another ETag.
    Etag(String),
    /// These bytes instead of an answer, and then the end of the connection.
    Raw(Vec<u8>),
    /// The first bytes, and then the second for ever.
    Endless(Vec<u8>, Vec<u8>),
    /// The first bytes, and then the second for ever, with a pause before each time.
    Trickle(Vec<u8>, Vec<u8>, Duration),
    /// Another list of files.
    Json(Value),
}

/// A fault, and how often it happens.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    pub(crate) skip: usize,
    pub(crate) times: usize,
}

/// A request that has been answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) storage: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) status: u16,
    pub(crate) sent: u64,
}

struct State {
    root: PathBuf,
    options: Options,
    urls: [String; 2],
    faults: Mutex<Vec<Fault>>,
    log: Mutex<Vec<Request>>,
    hashes: Mutex<HashMap<PathBuf, (u64, String, String)>>,
    /// How often everything was forgotten. A client that was killed is missed only when the next bytes for it fail, and by then
    /// its request may be one of an earlier time.
    resets: AtomicUsize,
}

/// A hub that runs until its process ends.
#[derive(Clone)]
pub(crate) struct TestHub(Arc<State>);

impl TestHub {
    pub(crate) fn start(root: &Path, options: Options) -> TestHub {
        let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let urls = [0, 1].map(|index| format!("http://{}", listeners[index].local_addr().unwrap()));
        let (faults, log, hashes, resets) = Default::default();
        let state = Arc::new(State { root: root.to_path_buf(), options, urls, faults, log, hashes, resets });
        for (index, listener) in listeners.into_iter().enumerate() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || Connection { state: &state, storage: index == 1, stream }.serve());
                }
            });
        }
        TestHub(state)
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.urls[0]
    }

    pub(crate) fn storage_url(&self) -> &str {
        &self.0.urls[1]
    }

    /// Something goes wrong once.
    pub(crate) fn fault(&self, place: Place, kind: Kind) {
        self.faults(Fault { place, kind, skip: 0, times: 1 });
    }

    pub(crate) fn faults(&self, fault: Fault) {
        self.0.faults.lock().unwrap().push(fault);
    }

    /// Forgets faults and requests.
    pub(crate) fn reset(&self) {
        self.0.faults.lock().unwrap().clear();
        let mut log = self.0.log.lock().unwrap();
        self.0.resets.fetch_add(1, Ordering::Relaxed);
        log.clear();
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.0.log.lock().unwrap().clone()
    }

    /// Requests for contents that were answered with some.
    pub(crate) fn downloads(&self) -> usize {
        let contents = |request: &&Request| request.method == "GET" && request.storage && request.status < 300;
        self.log().iter().filter(contents).count()
    }

    pub(crate) fn commit(&self, repo: &str) -> String {
        self.0.commit(&self.0.files(repo).unwrap())
    }

    pub(crate) fn sha256(&self, repo: &str, file: &str) -> String {
        self.0.digest(&self.0.files(repo).unwrap()[file]).2
    }
}

impl State {
    fn files(&self, repo: &str) -> Option<BTreeMap<String, PathBuf>> {
        let mut found = BTreeMap::new();
        let folder = repo.split('/').fold(self.root.clone(), |path, part| path.join(part));
        let parts = repo.split('/').count();
        if parts != 2 || repo.contains("..") || !folder.is_dir() {
            return None;
        }
        let mut folders = vec![(folder, String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
                if entry.path().is_dir() {
                    folders.push((entry.path(), format!("{name}/")));
                } else {
                    found.insert(name, entry.path());
                }
            }
        }
        Some(found)
    }

    /// Size, git blob id and SHA-256.
    fn digest(&self, path: &Path) -> (u64, String, String) {
        if let Some(known) = self.hashes.lock().unwrap().get(path) {
            return known.clone();
        }
        let mut file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        let (mut git, mut sha, mut buffer) = (Sha1::new(), Sha256::new(), vec![0; 1 << 20]);
        git.update(format!("blob {size}\0"));
        loop {
            let count = file.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            git.update(&buffer[..count]);
            sha.update(&buffer[..count]);
        }
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let digest = (size, hexadecimal(&git.finalize()), hexadecimal(&sha.finalize()));
        self.hashes.lock().unwrap().insert(path.to_path_buf(), digest.clone());
        digest
    }

    fn commit(&self, files: &BTreeMap<String, PathBuf>) -> String {
        let mut hasher = Sha1::new();
        for (name, path) in files {
            hasher.update(format!("{name} {}\n", self.digest(path).2));
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn take_fault(&self, place: Place) -> Option<Kind> {
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|fault| fault.place == place && fault.times > 0)?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.kind.clone())
    }
}

struct Connection<'a> {
    state: &'a State,
    storage: bool,
    stream: TcpStream,
}

struct Asked {
    method: String,
    path: String,
    query: String,
    range: Option<String>,
    token: Option<String>,
    /// [`State::resets`] when it came.
    resets: usize,
}

type Headers = Vec<(&'static str, String)>;

impl Connection<'_> {
    fn serve(mut self) {
        let mut reader = BufReader::new(self.stream.try_clone().unwrap());
        while let Some(mut asked) = read_request(&mut reader) {
            asked.resets = self.state.resets.load(Ordering::Relaxed);
            // A client that has gone is no fault of the hub's.
            if self.answer(&asked).is_none() {
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    /// `None` ends the connection.
    fn answer(&mut self, asked: &Asked) -> Option<()> {
        let parts: Vec<String> = asked.path.split('/').skip(1).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if self.storage {
            let [org, name, sha] = parts.as_slice() else { return self.error(asked, 404, "", "no such blob") };
            let files = self.state.files(&format!("{org}/{name}")).unwrap_or_default();
            let path = files.into_values().find(|path| self.state.digest(path).2 == *sha);
            return match path {
                Some(path) => self.send_file(asked, Place::Storage, &path, vec![("ETag", format!("\"{sha}\""))]),
                None => self.error(asked, 404, "", "no such blob"),
            };
        }
        match parts.as_slice() {
            ["api", "models", org, name, "revision", rev] => self.info(asked, &format!("{org}/{name}"), rev),
            ["api", "models", org, name] => self.info(asked, &format!("{org}/{name}"), "main"),
            ["api", "models", org, name, "tree", rev] => self.tree(asked, &format!("{org}/{name}"), rev),
            ["api", "models", org, name, "refs"] => {
                let commit = self.found(asked, &format!("{org}/{name}"), "main")?.1;
                let branch = json!({"name": "main", "ref": "refs/heads/main", "targetCommit": commit});
                self.send(asked, 200, vec![], &json!({"branches": [branch], "tags": [], "converts": []}))
            }
            [org, name, "resolve", rev, file @ ..] => {
                self.resolve(asked, &format!("{org}/{name}"), rev, &file.join("/"))
            }
            _ => self.error(asked, 404, "", "Not Found"),
        }
    }

    /// The files and the commit; answers itself where there is no such revision, and ends the connection.
    fn found(&mut self, asked: &Asked, repo: &str, rev: &str) -> Option<(BTreeMap<String, PathBuf>, String)> {
        let (state, token) = (self.state, asked.token.as_deref());
        let allowed = !state.options.private || token == Some(&state.options.token);
        let Some(files) = state.files(repo).filter(|_| allowed) else {
            // The hub does not tell a private repository from none.
            match token {
                Some(_) => self.error(asked, 404, "RepoNotFound", "Repository not found"),
                None => self.error(asked, 401, "RepoNotFound", "Invalid username or password."),
            };
            return None;
        };
        let commit = state.commit(&files);
        if rev != "main" && rev != commit {
            self.error(asked, 404, "RevisionNotFound", &format!("Invalid rev id: {rev}"));
            return None;
        }
        Some((files, commit))
    }

    fn entry(&self, name: &str, path: &Path) -> Value {
        let (size, git, sha) = self.state.digest(path);
        match size >= self.state.options.large {
            true => json!({"type": "file", "path": name, "rfilename": name, "size": size, "oid": git, "blobId": git,
                "lfs": {"oid": sha, "sha256": sha, "size": size, "pointerSize": 134}}),
            false => json!({"type": "file", "path": name, "rfilename": name, "size": size, "oid": git, "blobId": git}),
        }
    }

    fn info(&mut self, asked: &Asked, repo: &str, rev: &str) -> Option<()> {
        let fault = self.state.take_fault(Place::Info);
        if let Some(done) = self.faulty(asked, fault.as_ref()) {
            return done;
        }
        let (files, commit) = self.found(asked, repo, rev)?;
        let blobs = self.state.options.blobs && asked.query.contains("blobs=true");
        let sibling = |(name, path): (&String, &PathBuf)| match blobs {
            true => {
                let mut entry = self.entry(name, path);
                let lfs = entry["lfs"].as_object_mut().map(|lfs| lfs.remove("oid"));
                drop(lfs);
                entry
            }
            false => json!({"rfilename": name}),
        };
        let siblings: Vec<Value> = files.iter().map(sibling).collect();
        let gated = if self.state.options.gated { json!("manual") } else { json!(false) };
        let mut info = json!({"id": repo, "modelId": repo, "private": false, "gated": gated, "sha": commit, "tags": [],
            "siblings": siblings, "cardData": {"license": "mit"}});
        if let Some(Kind::Json(changes)) = fault {
            info.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        }
        self.send(asked, 200, vec![], &info)
    }

    fn tree(&mut self, asked: &Asked, repo: &str, rev: &str) -> Option<()> {
        let fault = self.state.take_fault(Place::Tree);
        if let Some(done) = self.faulty(asked, fault.as_ref()) {
            return done;
        }
        let (files, _) = self.found(asked, repo, rev)?;
        let page = self.state.options.page;
        let at = asked.query.split('&').find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
        let entries: Vec<Value> = files.iter().skip(at).take(page).map(|(name, path)| self.entry(name, path)).collect();
        let next = format!("<{}{}?recursive=true&cursor={}>; rel=\"next\"", self.state.urls[0], asked.path, at + page);
        let headers = if at + page < files.len() { vec![("Link", next)] } else { vec![] };
        self.send(asked, 200, headers, &json!(entries))
    }

    fn resolve(&mut self, asked: &Asked, repo: &str, rev: &str, name: &str) -> Option<()> {
        let (files, commit) = self.found(asked, repo, rev)?;
        let options = &self.state.options;
        if options.gated && asked.token.as_ref() != Some(&options.token) {
            let status = if asked.token.is_some() { 403 } else { 401 };
            return self.error(asked, status, "GatedRepo", &format!("Access to model {repo} is restricted."));
        }
        let Some(path) = files.get(name) else { return self.error(asked, 404, "EntryNotFound", "Entry not found") };
        let (size, git, sha) = self.state.digest(path);
        if size < options.large {
            let headers = vec![("X-Repo-Commit", commit), ("ETag", format!("\"{git}\""))];
            return self.send_file(asked, Place::Resolve, path, headers);
        }
        let fault = self.state.take_fault(Place::Resolve);
        if let Some(done) = self.faulty(asked, fault.as_ref()) {
            return done;
        }
        let etag = if let Some(Kind::Etag(etag)) = fault { etag } else { sha.clone() };
        let location = format!("{}/{repo}/{sha}?Signature=secret", self.state.urls[1]);
        let headers = vec![
            ("X-Repo-Commit", commit),
            ("X-Linked-Size", size.to_string()),
            ("X-Linked-Etag", format!("\"{etag}\"")),
            ("Accept-Ranges", "bytes".into()),
            ("Location", location),
        ];
        self.send_bytes(asked, 302, headers, b"")
    }

    /// Answers a fault that stands in the place of the whole answer.
    fn faulty(&mut self, asked: &Asked, fault: Option<&Kind>) -> Option<Option<()>> {
        match fault? {
            Kind::Status(code, headers, body) => Some(self.send(asked, *code, headers.clone(), body)),
            Kind::Redirect(to) => Some(self.send_bytes(asked, 302, vec![("Location", to.clone())], b"")),
            Kind::Raw(bytes) => {
                let _ = self.stream.write_all(bytes);
                Some(None)
            }
            Kind::Endless(first, then) => {
                let _ = self.stream.write_all(first);
                while self.stream.write_all(then).is_ok() {}
                Some(None)
            }
            Kind::Trickle(first, then, pause) => {
                let _ = self.stream.write_all(first);
                while self.stream.write_all(then).is_ok() {
                    std::thread::sleep(*pause);
                }
                Some(None)
            }
            Kind::Cut { after: 0 } => Some(None),
            _ => None,
        }
    }

    /// A file, or the range asked for, with whatever fault is due.
    fn send_file(&mut self, asked: &Asked, place: Place, path: &Path, mut headers: Headers) -> Option<()> {
        let fault = self.state.take_fault(place);
        if let Some(done) = self.faulty(asked, fault.as_ref()) {
            return done;
        }
        let size = self.state.digest(path).0;
        let range = asked.range.as_deref().filter(|_| !matches!(fault, Some(Kind::NoRange)));
        let mut start =
            range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()).unwrap_or(0);
        if range.is_some() && start >= size {
            return self.send_bytes(asked, 416, vec![("Content-Range", format!("bytes */{size}"))], b"");
        }
        if let Some(Kind::BadRange(shift)) = fault {
            start = start.saturating_add_signed(shift);
        }
        if let Some(Kind::Etag(etag)) = &fault {
            headers.retain(|(name, _)| *name != "ETag");
            headers.push(("ETag", etag.clone()));
        }
        let status = if range.is_some() { 206 } else { 200 };
        if range.is_some() {
            headers.push(("Content-Range", format!("bytes {start}-{}/{size}", size - 1)));
        }
        let length = size - start;
        let told = if let Some(Kind::Length(add)) = fault { length.saturating_add_signed(add) } else { length };
        self.head(status, &headers, told)?;
        if asked.method == "HEAD" {
            self.note(asked, status, 0);
            return Some(());
        }
        let limit = match fault {
            Some(Kind::Cut { after } | Kind::Stall { after, .. }) => after.min(length),
            _ => length.min(told),
        };
        let mut file = File::open(path).unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        let corrupt = matches!(fault, Some(Kind::Corrupt));
        let sent = self.copy(&mut file, limit, corrupt);
        self.note(asked, status, sent);
        match fault {
            Some(Kind::Stall { time, .. }) => std::thread::sleep(time),
            Some(Kind::Cut { .. } | Kind::Length(_)) => {}
            _ => return (sent == length).then_some(()),
        }
        None
    }

    fn copy(&mut self, file: &mut File, limit: u64, corrupt: bool) -> u64 {
        let (mut buffer, mut sent) = (vec![0; 1 << 18], 0);
        while sent < limit {
            let most = buffer.len().min((limit - sent) as usize);
            let count = file.read(&mut buffer[..most]).unwrap();
            buffer[0] ^= u8::from(corrupt && sent == 0);
            if count == 0 || self.stream.write_all(&buffer[..count]).is_err() {
                break;
            }
            sent += count as u64;
            std::thread::sleep(self.state.options.pause);
        }
        sent
    }

    fn error(&mut self, asked: &Asked, status: u16, code: &'static str, message: &str) -> Option<()> {
        let mut headers = vec![("X-Error-Message", message.to_owned())];
        if !code.is_empty() {
            headers.push(("X-Error-Code", code.into()));
        }
        self.send(asked, status, headers, &json!({"error": message}))
    }

    fn send(&mut self, asked: &Asked, status: u16, headers: Headers, body: &Value) -> Option<()> {
        self.send_bytes(asked, status, headers, body.to_string().as_bytes())
    }

    fn send_bytes(&mut self, asked: &Asked, status: u16, headers: Headers, body: &[u8]) -> Option<()> {
        self.head(status, &headers, body.len() as u64)?;
        self.note(asked, status, 0);
        if asked.method == "HEAD" { Some(()) } else { self.stream.write_all(body).ok() }
    }

    fn head(&mut self, status: u16, headers: &[(&'static str, String)], length: u64) -> Option<()> {
        let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).ok()
    }

    fn note(&self, asked: &Asked, status: u16, sent: u64) {
        let (method, path) = (asked.method.clone(), asked.path.clone());
        let (range, token) = (asked.range.clone(), asked.token.clone());
        let request = Request { storage: self.storage, method, path, range, token, status, sent };
        let mut log = self.state.log.lock().unwrap();
        if self.state.resets.load(Ordering::Relaxed) == asked.resets {
            log.push(request);
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut asked = Asked { method, path: path.into(), query: query.into(), range: None, token: None, resets: 0 };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { return Some(asked) };
        match name.to_ascii_lowercase().as_str() {
            "range" => asked.range = Some(value.trim().to_owned()),
            "authorization" => asked.token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
}

fn decoded(part: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), part.bytes());
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}
