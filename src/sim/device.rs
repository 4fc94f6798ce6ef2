//! What a device is: what never changes about it, and the attributes that change rarely.
//!
//! Measured values are elsewhere; so is how any of it is written.

use std::borrow::Cow;

use chrono::{DateTime, Datelike};

use super::dice::{Dice, Topic};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A place with an edge of Cloudflare.
pub(super) struct City {
    pub(super) colo: &'static str,
    pub(super) name: &'static str,
    pub(super) country: &'static str,
    pub(super) state: &'static str,
    pub(super) zip: &'static str,
    hours_east: i64,
}

const fn city(
    colo: &'static str,
    name: &'static str,
    country: &'static str,
    state: &'static str,
    zip: &'static str,
    hours_east: i64,
) -> City {
    City { colo, name, country, state, zip, hours_east }
}

static CITIES: [City; 12] = [
    city("SJC", "San Jose", "US", "CA", "95101", -8),
    city("ORD", "Chicago", "US", "IL", "60601", -6),
    city("IAD", "Ashburn", "US", "VA", "20147", -5),
    city("GRU", "São Paulo", "BR", "SP", "01000-000", -3),
    city("LHR", "London", "GB", "ENG", "EC1A", 0),
    city("CDG", "Paris", "FR", "IDF", "75001", 1),
    city("AMS", "Amsterdam", "NL", "NH", "1012", 1),
    city("FRA", "Frankfurt", "DE", "HE", "60306", 1),
    city("BOM", "Mumbai", "IN", "MH", "400001", 5),
    city("SIN", "Singapore", "SG", "01", "018956", 8),
    city("NRT", "Tokyo", "JP", "13", "100-0001", 9),
    city("SYD", "Sydney", "AU", "NSW", "2000", 10),
];

/// Who brings the device online: an AS number and its organisation.
pub(super) type Provider = (i64, &'static str);

static PROVIDERS: [Provider; 7] = [
    (7922, "COMCAST-7922"),
    (3320, "DTAG Internet service provider operations"),
    (2856, "British Telecommunications PLC"),
    (12322, "Free SAS"),
    (4713, "NTT Communications Corporation"),
    (55836, "Reliance Jio Infocomm Limited"),
    (701, "UUNET"),
];

const PLATFORMS: [(u64, &str); 6] =
    [(50, "windows"), (28, "mac"), (6, "linux"), (8, "ios"), (6, "android"), (2, "chromeos")];
const MODES: [(u64, &str); 4] = [(85, "warp"), (5, "proxy"), (5, "warp+doh"), (5, "tunnel_only")];
const STATUSES: [(u64, &str); 5] =
    [(94, "connected"), (3, "disconnected"), (1, "paused"), (1, "connecting"), (1, "nonetwork")];
const PEOPLE: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
const MODELS: [&str; 5] = ["mbp", "thinkpad", "surface", "nuc", "pixel"];
const ODD_NAMES: [&str; 6] =
    ["Zoë’s MacBook Pro", "東京-デスクトップ", "Łukasz-ThinkPad", "Bob \"the builder\" PC", "DESKTOP\\01", "📱 Ünal"];
const SSIDS: [&str; 6] = ["corp-wifi", "corp-guest", "HomeNet-", "linksys", "eduroam", "FRITZ!Box 7590 "];

/// Where a device is for a day.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Usual,
    Other,
    Away,
}

/// One device.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) dice: Dice,
    pub(super) index: u32,
    pub(super) platform: &'static str,
    pub(super) masque: bool,
    pub(super) ipv6: bool,
    /// Windows with two users who take turns.
    two_users: bool,
}

impl Device {
    pub(super) fn of(dice: Dice, index: u32) -> Self {
        let platform = dice.on(Topic::Platform).weighted(&PLATFORMS);
        Self {
            dice,
            index,
            platform,
            masque: dice.on(Topic::Tunnel).chance(0.7),
            ipv6: dice.on(Topic::Ipv6).chance(0.67),
            two_users: platform == "windows" && dice.on(Topic::Users).chance(0.04),
        }
    }

    /// Phones tell little about themselves.
    pub(super) fn is_phone(&self) -> bool {
        matches!(self.platform, "ios" | "android")
    }

    pub(super) fn name(&self) -> Cow<'static, str> {
        match self.index {
            2 => "kiosk</script><b>2".into(),
            i if i % 41 == 7 => (*self.dice.on(Topic::Name).pick(&ODD_NAMES)).into(),
            // Shares the name of the device before it: a clone from one image.
            i if i % 97 == 13 => plain_name(i - 1).into(),
            i => plain_name(i).into(),
        }
    }

    /// Which of its users is at the device.
    pub(super) fn user(&self, at_ms: i64) -> u64 {
        let spell = at_ms.div_euclid(4 * HOUR_MS);
        u64::from(self.two_users && self.dice.on(Topic::Users).at(spell).chance(0.4))
    }

    pub(super) fn email(&self, at_ms: i64) -> String {
        let person = self.index as usize + 3 * usize::from(self.user(at_ms) == 1);
        format!("{}{}@example.com", PEOPLE[person % PEOPLE.len()], self.index)
    }

    pub(super) fn place(&self, at_ms: i64) -> Place {
        match self.dice.on(Topic::Place).at(at_ms.div_euclid(DAY_MS)).below(100) {
            0..4 => Place::Away,
            4..20 => Place::Other,
            _ => Place::Usual,
        }
    }

    pub(super) fn city(&self, at_ms: i64) -> &'static City {
        let home = self.dice.on(Topic::City);
        match self.place(at_ms) {
            Place::Away => home.at(at_ms.div_euclid(7 * DAY_MS)).pick(&CITIES),
            _ => home.pick(&CITIES),
        }
    }

    /// The edge in use: near the city, but for a detour now and then.
    pub(super) fn colo(&self, at_ms: i64) -> &'static str {
        let detour = self.dice.on(Topic::Colo).at(at_ms.div_euclid(6 * HOUR_MS));
        if detour.chance(0.03) { detour.with(1).pick(&CITIES).colo } else { self.city(at_ms).colo }
    }

    pub(super) fn provider(&self, at_ms: i64) -> &'static Provider {
        self.dice.on(Topic::Provider).with(self.place(at_ms) as u64).pick(&PROVIDERS)
    }

    /// The wireless network; `None` on a cable.
    pub(super) fn ssid(&self, at_ms: i64) -> Option<String> {
        let place = self.place(at_ms);
        let dice = self.dice.on(Topic::Wifi).with(place as u64);
        if place != Place::Away && !dice.chance(0.75) {
            return None;
        }
        let name = *dice.with(1).pick(&SSIDS);
        let numbered = name.ends_with(['-', ' ']);
        Some(if numbered { format!("{name}{}", dice.with(2).below(500)) } else { name.to_owned() })
    }

    pub(super) fn mode(&self, at_ms: i64) -> &'static str {
        let dice = self.dice.on(Topic::Mode);
        let month = dice.at(at_ms.div_euclid(30 * DAY_MS));
        if month.chance(0.03) { month.with(1).weighted(&MODES) } else { dice.weighted(&MODES) }
    }

    pub(super) fn status(&self, at_ms: i64) -> &'static str {
        self.dice.on(Topic::Status).at(at_ms.div_euclid(HOUR_MS / 2)).weighted(&STATUSES)
    }

    pub(super) fn firewall(&self, at_ms: i64) -> bool {
        let dice = self.dice.on(Topic::Firewall);
        !dice.chance(0.09) && !dice.at(at_ms.div_euclid(8 * HOUR_MS)).chance(0.01)
    }

    /// The client's version: a release every three weeks, taken up within two, by some a release late.
    pub(super) fn version(&self, at_ms: i64) -> String {
        let every = 21 * DAY_MS;
        let release = at_ms.div_euclid(every);
        let dice = self.dice.on(Topic::Upgrade);
        let delay = dice.at(release).below(14 * DAY_MS.unsigned_abs()).cast_signed();
        let waits = at_ms.rem_euclid(every) < delay;
        let release = release - i64::from(waits) - i64::from(dice.chance(0.1));
        let day = DateTime::from_timestamp_millis(release * every).unwrap_or_default();
        // The build belongs to the release, not to the device.
        let build = 100 + Dice::new(0).on(Topic::Build).at(release).below(900);
        format!("{}.{}.{build}.0", day.year(), day.month())
    }

    /// The hour of the day where the device is at home, as a fraction of the day.
    pub(super) fn local_ms(&self, at_ms: i64) -> i64 {
        at_ms + self.dice.on(Topic::City).pick(&CITIES).hours_east * HOUR_MS
    }
}

fn plain_name(index: u32) -> String {
    let i = index as usize;
    format!("{}-{}{index:03}", PEOPLE[i % PEOPLE.len()], MODELS[i % MODELS.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_790_000_000_000;

    fn changed(attribute: impl Fn(&Device, i64) -> String) -> usize {
        let devices = (0..2_000).map(|i| Device::of(Dice::new(7).with(i.into()), i));
        devices.filter(|d| attribute(d, NOON) != attribute(d, NOON + DAY_MS)).count()
    }

    #[test]
    fn attributes_change_now_and_then() {
        assert!((1..400).contains(&changed(super::Device::version)));
        assert!((1..800).contains(&changed(|d, at| d.colo(at).to_owned())));
        assert!((1..800).contains(&changed(|d, at| format!("{:?}", d.ssid(at)))));
        assert!((1..60).contains(&changed(super::Device::email)));
        assert_eq!(changed(|d, _| d.name().into_owned()), 0);
    }

    #[test]
    fn names_are_odd_where_they_should_be() {
        let name = |i| Device::of(Dice::new(7).with(1), i).name();
        assert!(name(2).contains("</script>"));
        assert_eq!(name(13), name(12));
        assert!(!name(7).is_ascii() || name(7).contains(['"', '\\']));
    }
}
