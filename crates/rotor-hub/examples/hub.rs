//! The tests' hub as a program: `hub DIR` serves `DIR/ORG/NAME/...` on loopback until its standard input ends. The first line
//! it prints is its address.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

#[path = "../tests/hub/mod.rs"]
mod hub;

use std::io::Read;

fn main() {
    let Some(root) = std::env::args_os().nth(1) else {
        eprintln!("usage: hub DIR");
        std::process::exit(2);
    };
    let options = hub::Options { page: 3, ..hub::Options::default() };
    let hub = hub::TestHub::start(std::path::Path::new(&root), options);
    println!("{}", hub.url());
    // Nothing is read; the end of the input is the end of the program.
    let _ = std::io::stdin().read(&mut [0]);
    for request in hub.log() {
        println!("{} {} {} {}", request.method, request.path, request.status, request.sent);
    }
}
