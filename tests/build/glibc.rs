//! A static glibc reads /etc/nsswitch.conf, loads the modules that stand there beside itself, and dies of them. A few lines of
//! C keep it from that. Nothing else needs this script.
#![allow(clippy::print_stdout)]

use std::env;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=tests/build/static_glibc.c");
    let says = |name: &str, value: &str| {
        let set = env::var(name).unwrap_or_default();
        set.split(',').any(|one| one == value)
    };
    if !says("CARGO_CFG_TARGET_ENV", "gnu") || !says("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return Ok(());
    }
    let target = env::var("TARGET").unwrap_or_default();
    let compiler = env::var(format!("CC_{}", target.replace('-', "_")));
    let compiler = compiler.unwrap_or_else(|_| "cc".to_owned());
    let object = Path::new(&env::var("OUT_DIR").unwrap_or_default()).join("static_glibc.o");
    let compiled = Command::new(&compiler)
        .args(["-O2", "-fPIC", "-c", "tests/build/static_glibc.c", "-o"])
        .arg(&object)
        .status();
    match compiled {
        Ok(status) if status.success() => {
            println!("cargo::rustc-link-arg-bins={}", object.display());
            Ok(())
        }
        other => Err(format!("{compiler}, which a static glibc needs: {other:?}")),
    }
}
