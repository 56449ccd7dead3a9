//! The `rotor` command.

#![forbid(unsafe_code)]

fn main() {}
