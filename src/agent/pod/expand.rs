//! `$(NAME)` in variables, commands and arguments
//! (kubernetes `third_party/forked/golang/expansion`). Pure.

/// Replaces each `$(NAME)` for which `lookup` knows a value. `$$(NAME)` stays as `$(NAME)`; what
/// is unknown stays as it is.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.chars().next() {
            Some('$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some('(') => match rest.find(')') {
                Some(end) => {
                    let name = &rest[1..end];
                    match lookup(name) {
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &rest[end + 1..];
                }
                None => out.push('$'),
            },
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_the_rest_stays() {
        let table = [
            ("a $(X) b", "a 1 b"),
            ("$(X)$(X)", "11"),
            ("$(Y)", "$(Y)"),
            ("$$(X)", "$(X)"),
            ("$$$(X)", "$1"),
            ("$X ${X} $", "$X ${X} $"),
            ("$(X", "$(X"),
            ("cost: 5$", "cost: 5$"),
        ];
        for (text, expected) in table {
            let got = expand(text, |name| (name == "X").then(|| "1".to_owned()));
            assert_eq!(got, expected, "{text}");
        }
    }
}
