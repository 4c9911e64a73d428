//! Builds the C shim against the installed Varnish and generates the Rust side of its header.
//!
//! `pkg-config varnishapi` alone says where the headers are. VARNISH_INCLUDE_PATHS, which the
//! `varnish` crate also honours, assumes another version of Varnish than the one it points to.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=c_shim");
    println!("cargo::rerun-if-changed=build.rs");

    // As crates/node's VERSION has it, in a form for concat!().
    println!("cargo::rerun-if-env-changed=POWDERHORN_VERSION");
    let version = std::env::var("POWDERHORN_VERSION")
        .or_else(|_| std::env::var("CARGO_PKG_VERSION"))
        .expect("cargo sets CARGO_PKG_VERSION");
    println!("cargo::rustc-env=POWDERHORN_VERSION={version}");

    let varnish = match pkg_config::Config::new()
        .cargo_metadata(false)
        .probe("varnishapi")
    {
        Ok(varnish) => varnish,
        Err(e) => {
            eprintln!("the headers of Varnish (Debian: libvarnishapi-dev) are needed: {e}");
            std::process::exit(1);
        }
    };

    cc::Build::new()
        .files(
            [
                "powderhorn_shim",
                "objects",
                "adopt",
                "bans",
                "keep",
                "director",
                "cli",
                "counters",
            ]
            .map(|name| format!("c_shim/{name}.c")),
        )
        .includes(&varnish.include_paths)
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-Werror=implicit-function-declaration")
        .compile("powderhorn_shim");

    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindgen::Builder::default()
        .header("c_shim/powderhorn_shim.h")
        .allowlist_item("(ph|PH)_.*")
        .prepend_enum_name(false)
        .use_core()
        .generate()
        .expect("bindgen reads c_shim/powderhorn_shim.h")
        .write_to_file(out.join("powderhorn_shim.rs"))
        .expect("OUT_DIR can be written");

    // The library's threads outlive every VCL that imports it, so dlclose() must not unmap it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // `varnishd -E` maps a library so that all later ones use its symbols: a second copy, of which VCL
    // imports functions, would otherwise take the first one's marks for its own.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
