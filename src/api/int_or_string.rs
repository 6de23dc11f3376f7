//! A number or a percentage of something (`k8s.io/apimachinery/pkg/util/intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Why a value is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A text that does not end in `%`.
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotAPercentage,
    /// A text with something else than a number before `%`.
    #[error(
        "invalid value for IntOrString: invalid value \"{0}\": strconv.Atoi: parsing \"{1}\": invalid syntax"
    )]
    NotANumber(String, String),
}

/// Which way a fraction is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the larger number.
    Up,
    /// To the smaller number.
    Down,
}

/// The number itself, or the percentage of `total`.
pub fn scaled(value: &IntOrString, total: i64, round: Round) -> Result<i64, Error> {
    let text = match value {
        IntOrString::Int(number) => return Ok(i64::from(*number)),
        IntOrString::String(text) => text,
    };
    let percent = percent(text)?;
    let product = i128::from(percent) * i128::from(total);
    let scaled = match round {
        Round::Down => product.div_euclid(100),
        Round::Up => -(-product).div_euclid(100),
    };
    Ok(i64::try_from(scaled).unwrap_or(i64::MAX))
}

/// The number before the `%`.
pub fn percent(text: &str) -> Result<i64, Error> {
    let number = text.strip_suffix('%').ok_or(Error::NotAPercentage)?;
    number
        .parse()
        .map_err(|_| Error::NotANumber(text.to_owned(), number.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_the_way_asked_for() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        assert_eq!(scaled(&text("25%"), 10, Round::Up), Ok(3));
        assert_eq!(scaled(&text("25%"), 10, Round::Down), Ok(2));
        assert_eq!(scaled(&text("100%"), 7, Round::Up), Ok(7));
        assert_eq!(scaled(&IntOrString::Int(4), 1, Round::Up), Ok(4));
        assert_eq!(scaled(&text("4"), 1, Round::Up), Err(Error::NotAPercentage));
        assert!(scaled(&text("x%"), 1, Round::Up).is_err());
    }
}
