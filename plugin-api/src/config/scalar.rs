//! How is an unquoted YAML scalar interpreted, given the type of its field?

use serde_json::Number;

/// Interprets a scalar as a boolean. The words of YAML 1.1 are accepted too, because older files use them.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Interprets a scalar as a number: decimal, `0x`, `0o`, or with a fraction or an exponent.
pub(super) fn number(text: &str) -> Option<Number> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
    let whole = if let Some(hex) = digits.strip_prefix("0x") {
        radix(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        radix(octal, 8)
    } else if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    };
    if let Some(whole) = whole {
        return if negative { 0_i64.checked_sub_unsigned(whole).map(Number::from) } else { Some(Number::from(whole)) };
    }
    // Rust parses `inf`, `nan` and `infinity` as numbers; YAML spells them differently, and no field accepts
    // them.
    let looks_like_one = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if looks_like_one { text.parse().ok().and_then(Number::from_f64) } else { None }
}

/// Converts a number to a whole number, if it is one: `5`, but also `5.0`, as in JSON Schema.
pub(super) fn whole(number: &Number) -> Option<i128> {
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    // Every whole number up to 2^53 has exactly one float.
    number
        .as_f64()
        .filter(|float| float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0)
        .map(|float| float as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_notation() {
        for (text, expected) in [
            ("5", "5"),
            ("-5", "-5"),
            ("+5", "5"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("007", "7"),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
        ] {
            assert_eq!(number(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_a_number_is_none() {
        for text in ["", "-", "inf", "nan", ".nan", "1_000", "0x", "0x+1", "1s", "--1", "++1", "1e999", "e5", "x"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn float_without_a_fraction_is_whole() {
        assert_eq!(whole(&number("5.0").unwrap()), Some(5));
        assert_eq!(whole(&number("5.5").unwrap()), None);
        assert_eq!(whole(&number("1e300").unwrap()), None);
        assert_eq!(whole(&Number::from(u64::MAX)), Some(u64::MAX.into()));
    }
}
