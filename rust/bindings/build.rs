//! Passes on what `PyO3` found out about the interpreter, and compiles `src/interpreter.c` against the
//! headers of that same interpreter.

use std::{env, path::PathBuf, process::Command};

use pyo3_build_config::PythonImplementation;

/// Where the headers are, for a build that cannot run its interpreter (cross-compiling).
const INCLUDE_DIRECTORY: &str = "PENSTOCK_PYTHON_INCLUDE";

const PRINT_INCLUDE_DIRECTORIES: &str = "\
import sysconfig
for name in dict.fromkeys((sysconfig.get_path('include'), sysconfig.get_path('platinclude'))):
    print(name)
";

fn main() {
    refuse_what_cannot_work();
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo::rerun-if-changed=src/interpreter.c");
    println!("cargo::rerun-if-env-changed={INCLUDE_DIRECTORY}");
    println!("cargo::rerun-if-env-changed=PYO3_PYTHON");

    let mut build = cc::Build::new();
    build.file("src/interpreter.c").std("c11").warnings(true);
    // The interpreter's headers are not ours to keep free of warnings.
    for directory in include_directories() {
        build
            .flag("-isystem")
            .flag(directory.to_str().expect("a path in UTF-8"));
    }
    build.compile("penstock_interpreter");
}

/// Says in a sentence what would otherwise fail with many of the C compiler's.
fn refuse_what_cannot_work() {
    assert!(
        env::var_os("CARGO_CFG_WINDOWS").is_none(),
        "penstock does not support Windows: it runs on Linux and macOS"
    );
    let implementation = pyo3_build_config::get().implementation();
    assert!(
        implementation == PythonImplementation::CPython,
        "penstock does not support {implementation}: it runs on CPython 3.11 or newer"
    );
}

fn include_directories() -> Vec<PathBuf> {
    if let Some(directory) = env::var_os(INCLUDE_DIRECTORY) {
        return vec![directory.into()];
    }
    // maturin may hand PyO3 a configuration file that names no executable; it sets PYO3_PYTHON then.
    let executable = pyo3_build_config::get()
        .executable()
        .map(str::to_owned)
        .or_else(|| env::var("PYO3_PYTHON").ok())
        .unwrap_or_else(|| {
            panic!("no interpreter to ask for its headers: set PYO3_PYTHON, or {INCLUDE_DIRECTORY} to their directory")
        });
    let output = Command::new(&executable)
        // Isolated: a `sysconfig.py` in the current directory is not the one meant.
        .args(["-I", "-c", PRINT_INCLUDE_DIRECTORIES])
        .output()
        .unwrap_or_else(|error| panic!("{executable} does not run: {error}"));
    assert!(
        output.status.success(),
        "{executable} does not know its headers: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("paths in UTF-8")
        .lines()
        .map(PathBuf::from)
        .collect()
}
