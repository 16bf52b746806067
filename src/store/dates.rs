//! Times as stores write them.

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (HTTP's `Date`).
pub(super) fn http_date(text: &str) -> Option<f64> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|m| *m == month)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    Some(days(year, month, day) as f64 * 86_400.0 + time(words.next()?)?)
}

/// Seconds since 1970 of `1994-11-06T08:49:37.250Z` (S3's XML; always UTC).
pub(super) fn xml_date(text: &str) -> Option<f64> {
    let (date, time_of_day) = text.trim().trim_end_matches('Z').split_once('T')?;
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
    valid.then_some(())?;
    Some(days(year, month, day) as f64 * 86_400.0 + time(time_of_day)?)
}

/// `08:49:37.250` in seconds.
fn time(text: &str) -> Option<f64> {
    let mut parts = text.split(':').map(|part| part.parse::<f64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    Some(hour * 3600.0 + minute * 60.0 + second)
}

/// Days since 1970-01-01, by the days-from-civil algorithm of Howard Hinnant.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // years beyond these are no dates of stores; the sums below stay far from their limits
    let year = year.clamp(-10_000, 100_000) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.clamp(0, 31) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777.0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0.0)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799.0)),
            ("yesterday", None),
            ("Sun, 06 Nov", None),
        ] {
            assert_eq!(http_date(text), seconds, "{text}");
        }
    }

    #[test]
    fn dates_of_xml() {
        for (text, seconds) in [
            ("1994-11-06T08:49:37.250Z", Some(784_111_777.25)),
            ("2000-03-01T00:00:00Z", Some(951_868_800.0)),
            ("2000-13-01T00:00:00Z", None),
            ("2000-01-01", None),
        ] {
            assert_eq!(xml_date(text), seconds, "{text}");
        }
    }
}
