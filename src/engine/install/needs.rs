//! Whether there is anything to install, whether it is there already, and whether it is whole afterwards.

use std::fs;
use std::path::Path;

use crate::engine::install::InstallRequest;
use crate::engine::manifest::Package;

/// How many links without an end are named; the others are as many of the same.
const LINKS_NAMED: usize = 3;

/// Why nothing needs to be installed, if that is so.
pub(super) fn why_not(request: &InstallRequest<'_>, package: &Package) -> Option<&'static str> {
    let release = request.release;
    if has_packages(&release.join("node_modules")) {
        return Some("node_modules came along");
    }
    let is_there = |name: &str| release.join(name).symlink_metadata().is_ok();
    // npm compiles what has this file, even if no script says so.
    let scripts = package.install_scripts || is_there("binding.gyp");
    let scripts = scripts && request.options.install_allow_scripts;
    let needed = package.names_packages || scripts || is_there("pnpm-workspace.yaml");
    (!needed).then_some("package.json names nothing to install")
}

/// Whether a `node_modules` has at least one package. Caches of tools, an empty mount point or a file are none.
fn has_packages(modules: &Path) -> bool {
    let mut found = false;
    each_package(modules, &mut |package| {
        found |= package.join("package.json").is_file();
    });
    found
}

/// The links in `node_modules` that lead to nothing in the release, in words.
pub(super) fn dangling(release: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let Ok(root) = release.canonicalize() else {
        return warnings;
    };
    each_package(&root.join("node_modules"), &mut |package| {
        let Ok(target) = fs::read_link(package) else {
            return;
        };
        let inside = package.canonicalize().is_ok_and(|to| to.starts_with(&root));
        if !inside {
            warnings.push(format!(
                "{} leads to {:?}, which is not in the release: a dependency by path must be in what is deployed",
                package.strip_prefix(&root).unwrap_or(package).display(),
                target.to_string_lossy()
            ));
        }
    });
    warnings.sort();
    warnings.truncate(LINKS_NAMED);
    warnings
}

/// Shows each place of a package: the entries of `node_modules`, and of the scopes in it.
fn each_package(modules: &Path, show: &mut dyn FnMut(&Path)) {
    // What cannot be read is not a package, and npm says so better.
    let Ok(entries) = fs::read_dir(modules) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        match name.as_encoded_bytes().first() {
            Some(b'.') => {}
            Some(b'@') => each_package(&entry.path(), show),
            _ => show(&entry.path()),
        }
    }
}
