//! A range of numbers, some of them taken. Automatic picks come from the upper band first, so that
//! numbers people choose by hand, which are low, stay free (KEP-3070, KEP-3668).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::util::rng::Rng;

/// Why a number is not handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Somebody has it.
    Taken,
    /// It is not of this range; the range, as people write it.
    Outside(String),
    /// There is none left.
    Full,
}

#[derive(Debug)]
pub(super) struct Pool {
    range: RangeInclusive<u32>,
    /// First number of the upper band.
    upper: u32,
    label: String,
    taken: BTreeSet<u32>,
}

impl Pool {
    /// All addresses but the network's own and the broadcast address.
    pub(super) fn of_addresses(cidr: Ipv4Net) -> Self {
        let first = u32::from(cidr.network()).saturating_add(1);
        let last = u32::from(cidr.broadcast()).saturating_sub(1).max(first);
        let size = last - first + 1;
        // `min(max(16, size/16), 256)`, and none where the range is smaller than the minimum.
        let offset = if size < 16 {
            0
        } else {
            (size / 16).clamp(16, 256)
        };
        Self::new(first..=last, offset, cidr.to_string())
    }

    pub(super) fn of_ports(range: &RangeInclusive<u16>) -> Self {
        let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
        let size = last.saturating_sub(first) + 1;
        let offset = if size < 16 {
            0
        } else {
            (size / 32).clamp(16, 128)
        };
        Self::new(first..=last, offset, format!("{first}-{last}"))
    }

    fn new(range: RangeInclusive<u32>, offset: u32, label: String) -> Self {
        let upper = (*range.start() + offset).min(*range.end());
        Self {
            range,
            upper,
            label,
            taken: BTreeSet::new(),
        }
    }

    /// What the store says is taken.
    pub(super) fn mark(&mut self, number: u32) {
        self.taken.insert(number);
    }

    pub(super) fn take(&mut self, number: u32) -> Result<(), Refusal> {
        if !self.range.contains(&number) {
            return Err(Refusal::Outside(self.label.clone()));
        }
        if !self.taken.insert(number) {
            return Err(Refusal::Taken);
        }
        Ok(())
    }

    pub(super) fn take_any(&mut self, rng: &Rng) -> Result<u32, Refusal> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let number = self
            .free_in(self.upper..=last, rng)
            .or_else(|| self.free_in(first..=self.upper.saturating_sub(1), rng))
            .ok_or(Refusal::Full)?;
        self.taken.insert(number);
        Ok(number)
    }

    pub(super) fn free(&mut self, number: u32) {
        self.taken.remove(&number);
    }

    /// What is taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> BTreeSet<u32> {
        self.taken.clone()
    }

    /// The first free number from a random one on, around the end of the band.
    fn free_in(&self, band: RangeInclusive<u32>, rng: &Rng) -> Option<u32> {
        if band.is_empty() {
            return None;
        }
        let size = band.end() - band.start() + 1;
        let start = band.start() + rng.below(size as usize) as u32;
        self.first_gap(start..=*band.end())
            .or_else(|| self.first_gap(*band.start()..=start))
    }

    fn first_gap(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let mut candidate = *range.start();
        for taken in self.taken.range(range.clone()) {
            if *taken > candidate {
                return Some(candidate);
            }
            candidate = taken.checked_add(1)?;
        }
        range.contains(&candidate).then_some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_band_is_used_up_before_the_lower() {
        let mut pool = Pool::of_addresses("10.0.0.0/27".parse().unwrap());
        let base = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0));
        let rng = Rng::seeded(3);
        let picked: Vec<_> = (0..30)
            .map(|_| pool.take_any(&rng).unwrap() - base)
            .collect();
        let upper = picked[..14].iter().all(|n| (17..=30).contains(n));
        let lower = picked[14..].iter().all(|n| (1..=16).contains(n));
        assert!(upper && lower, "{picked:?}");
        assert_eq!(pool.take_any(&rng), Err(Refusal::Full));
        pool.free(base + 5);
        assert_eq!(pool.take_any(&rng), Ok(base + 5));
        assert_eq!(pool.take(base + 5), Err(Refusal::Taken));
        assert!(matches!(pool.take(base), Err(Refusal::Outside(_))));
    }
}
