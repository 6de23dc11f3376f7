//! Memory in small pages.
//!
//! Where the kernel hands out pages of 2 MiB, a program of many small pieces here and there holds
//! three times the memory it uses. So a server or agent asks for small ones. The wish is inherited
//! by programs it starts, and must not reach containers.

use nix::sys::prctl;

use crate::util::errors::OrLog;

/// Asks for small pages from here on.
pub fn use_small_pages() {
    prctl::set_thp_disable(true).ok_or_log("ask for small pages");
}

/// Starts a program that is to have whatever pages the machine gives.
pub fn with_any_pages<T>(start: impl FnOnce() -> T) -> T {
    let asked = prctl::get_thp_disable().unwrap_or(false);
    if !asked {
        return start();
    }
    prctl::set_thp_disable(false).ok_or_log("ask for any pages");
    let started = start();
    use_small_pages();
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_program_does_not_inherit_the_wish() {
        use_small_pages();
        assert!(!with_any_pages(|| prctl::get_thp_disable().unwrap()));
        assert!(prctl::get_thp_disable().unwrap());
    }
}
