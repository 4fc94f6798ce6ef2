//! Writes one report as the JSON body of a device state, in the shape its device has.
//!
//! It decides nothing about the fleet: what it writes was drawn elsewhere.

use super::device::Place;
use super::dice::{Dice, Topic, real, whole};
use super::facts::{Facts, burst};
use super::json::{Text, push_quoted};
use super::shape::{Form, push_time};

/// The length of an average body, with something to spare.
const ROOM: usize = 3_400;

/// The ids of a report, as text.
pub(super) struct Ids {
    pub(super) device: String,
    pub(super) registration: String,
}

const APPS: [&str; 15] = [
    "Google Chrome",
    "Slack",
    "zoom.us",
    "Code Helper (Renderer)",
    "Microsoft Teams",
    "WindowServer",
    "Outlook",
    "explorer.exe",
    "svchost.exe",
    "kernel_task",
    "Docker Desktop",
    "Firefox",
    "MsMpEng.exe",
    "OneDrive",
    "mds_stores",
];

/// The counters of a tunnel, each with its ratio to the packets received.
const COUNTERS: [(&str, f64); 8] = [
    ("bytesLost", 2.0),
    ("bytesReceived", 900.0),
    ("bytesRetransmitted", 3.0),
    ("bytesSent", 400.0),
    ("packetsLost", 0.01),
    ("packetsReceived", 1.0),
    ("packetsRetransmitted", 0.02),
    ("packetsSent", 0.8),
];

/// The body of a report, as one line.
pub(super) fn write(facts: &Facts, form: &Form, ids: &Ids) -> String {
    let mut out = String::with_capacity(ROOM);
    out.push('{');
    let mut text = Text::new(&mut out);
    identity(&mut text, facts, form, ids);
    text.terse = form.terse;
    text.wrong = form.wrong_value(facts.at_ms);
    power_and_apps(&mut text, facts, form);
    addresses(&mut text, facts, form);
    machine(&mut text, facts, form, ids);
    network(&mut text, facts, form, ids);
    if form.has_extra_keys(facts.at_ms) {
        text.raw(",\"osBuild\":\"26100.4061\",\"diskLatency\":{\"p50Us\":180,\"p99Us\":[4200,null]}");
    }
    text.raw("}");
    out
}

fn identity(text: &mut Text, facts: &Facts, form: &Form, ids: &Ids) {
    text.text("colo", Some(facts.colo));
    text.text("deviceId", Some(&ids.device));
    text.text("mode", Some(facts.mode));
    text.text("platform", Some(facts.device.platform));
    text.text("status", Some(facts.status));
    let mut time = String::with_capacity(36);
    push_time(&mut time, facts.at_ms, form.time);
    text.text("timestamp", Some(&time));
    text.text("version", Some(&facts.version));
}

fn power_and_apps(text: &mut Text, facts: &Facts, form: &Form) {
    let desktop = !facts.device.is_phone();
    let fixed = facts.device.dice.on(Topic::Battery);
    let battery = !facts.device.is_phone() && fixed.with(1).chance(0.85);
    text.flag("alwaysOn", desktop.then_some(true));
    text.flag("batteryCharging", battery.then_some(facts.charging));
    let cycles = fixed.with(2).below(900) + facts.at_ms.unsigned_abs() / 172_800_000 % 500;
    text.int("batteryCycles", (battery && facts.device.platform != "chromeos").then_some(cycles.cast_signed()));
    text.decimal("batteryPct", battery.then_some(facts.metrics.battery), 1);
    text.text("connectionType", Some(connection(facts)));
    text.decimal("cpuPct", desktop.then_some(facts.metrics.cpu), 4);
    let cpu = Share { key: "cpu_pct", total: facts.metrics.cpu, name_first: false };
    apps(text, "cpuPctByApp", facts, form, &cpu);
}

fn connection(facts: &Facts) -> &'static str {
    match (&facts.ssid, facts.device.is_phone()) {
        (Some(_), _) => "wifi",
        (None, true) => "cellular",
        (None, false) => "ethernet",
    }
}

/// A measurement that is shared out among apps.
struct Share {
    key: &'static str,
    total: f64,
    name_first: bool,
}

fn apps(text: &mut Text, key: &str, facts: &Facts, form: &Form, share: &Share) {
    if facts.device.is_phone() {
        return text.null(key);
    }
    if !text.key(key) {
        return;
    }
    let dice = facts.dice(Topic::Apps).with(share.name_first.into());
    let weights: [f64; 5] = std::array::from_fn(|i| dice.with(i as u64).between(0.05, 1.0));
    let sum: f64 = weights.iter().sum();
    text.raw(if form.legacy { "[[" } else { "[" });
    for (i, weight) in weights.into_iter().enumerate() {
        text.item();
        text.raw("{");
        let name = app(facts.device.dice, i);
        if share.name_first {
            text.text("name", Some(name));
        }
        text.decimal(share.key, Some(share.total * 0.95 * weight / sum), 4);
        if !share.name_first {
            text.text("name", Some(name));
        }
        text.raw("}");
    }
    text.raw(if form.legacy { "]]" } else { "]" });
}

/// The device's own five apps, so that each app is a series.
fn app(device: Dice, i: usize) -> &'static str {
    let first = device.on(Topic::Apps).below(APPS.len() as u64);
    APPS[(usize::try_from(first).unwrap_or(0) + 4 * i) % APPS.len()]
}

/// One address of a device.
struct Address<'a> {
    text: &'a str,
    name: Option<&'a str>,
    v6: bool,
    public: bool,
}

fn addresses(text: &mut Text, facts: &Facts, form: &Form) {
    let keys = ["deviceIpv4", "deviceIpv6", "gatewayIpv4", "gatewayIpv6", "ispIpv4", "ispIpv6"];
    for (n, key) in keys.into_iter().enumerate() {
        let v6 = n % 2 == 1;
        // Desktop agents alone tell their addresses.
        if facts.device.is_phone() || v6 && !facts.device.ipv6 {
            text.null(key);
        } else if text.key(key) {
            let name = (key == "ispIpv4").then(|| format!("isp-{}.example.net", facts.provider.0));
            let address = Address { text: &address(facts, n), name: name.as_deref(), v6, public: n >= 4 };
            write_address(text, facts, form, &address);
        }
    }
}

fn address(facts: &Facts, n: usize) -> String {
    let i = facts.device.index;
    let net = match facts.place {
        Place::Usual => i % 250,
        Place::Other => 250,
        Place::Away => 251,
    };
    match n {
        0 => format!("192.168.{net}.{}", i * 7 % 250 + 2),
        1 => format!("fd00:{net:x}::{:x}", i % 65_536 * 13 % 65_536 + 2),
        2 => format!("192.168.{net}.1"),
        3 => format!("fe80::{:x}", net + 1),
        4 => format!("203.0.{}.{}", 113 + facts.place as u32, i % 250 + 1),
        _ => format!("2001:db8:{:x}:{}::1", i % 65_536, facts.place as u32),
    }
}

fn write_address(text: &mut Text, facts: &Facts, form: &Form, ip: &Address) {
    let shown = |plain| if form.redacted && ip.public { "REDACTED" } else { plain };
    text.raw("{");
    text.text("address", Some(shown(ip.text)));
    text.int("asn", Some(facts.provider.0));
    text.text("aso", Some(facts.provider.1));
    text.key("location");
    text.raw("{");
    text.text("city", Some(shown(facts.city.name)));
    text.text("country_iso", Some(shown(facts.city.country)));
    text.text("state_iso", Some(shown(facts.city.state)));
    text.text("zip", Some(shown(facts.city.zip)));
    if form.has_extra_keys(facts.at_ms) {
        text.raw(",\"continent\":\"EU\"");
    }
    text.raw("}");
    if !form.legacy {
        text.text("name", ip.name.map(shown));
    }
    text.text("netmask", Some(shown(if ip.v6 { "64" } else { "255.255.255.0" })));
    match form.legacy {
        true if facts.device.index.is_multiple_of(2) => text.text("version", Some(if ip.v6 { "6" } else { "4" })),
        true => text.null("version"),
        false => text.int("version", Some(if ip.v6 { 2 } else { 1 })),
    }
    text.raw("}");
}

fn machine(text: &mut Text, facts: &Facts, form: &Form, ids: &Ids) {
    let desktop = !facts.device.is_phone();
    text.text("deviceName", Some(&facts.name));
    if !form.legacy {
        text.text("deviceRegistration", Some(&ids.registration));
    }
    text.int("diskReadBps", desktop.then(|| burst(facts, 1, 2e6)));
    text.decimal("diskUsagePct", desktop.then_some(facts.metrics.disk), 3);
    text.int("diskWriteBps", desktop.then(|| burst(facts, 2, 1e6)));
    text.null("dohSubdomain");
    text.decimal("estimatedLossPct", desktop.then_some(facts.metrics.loss), 3);
    text.flag("firewallEnabled", desktop.then_some(facts.firewall));
    // A client without a tunnel has said -1 here.
    let latency = if facts.connected() { whole(facts.metrics.rtt_us / 700.0) } else { -1 };
    text.int("handshakeLatencyMs", Some(latency));
    let metal = facts.device.dice.on(Topic::Colo).with(1).at(facts.at_ms / 3_600_000).below(400);
    text.text("metal", facts.connected().then(|| format!("{metal}m{}", metal % 31)).as_deref());
}

fn network(text: &mut Text, facts: &Facts, form: &Form, ids: &Ids) {
    let desktop = !facts.device.is_phone();
    text.int("networkRcvdBps", desktop.then(|| burst(facts, 3, 1.5e6)));
    text.int("networkSentBps", desktop.then(|| burst(facts, 4, 4e5)));
    text.text("networkSsid", facts.ssid.as_deref().filter(|_| desktop));
    text.text("personEmail", Some(&facts.email));
    let total_kb = 1_048_576.0 * real(*facts.device.dice.on(Topic::Memory).pick(&[8, 16, 32, 64]));
    let free_kb = whole(total_kb * (100.0 - facts.metrics.ram) / 100.0);
    text.int("ramAvailableKb", desktop.then_some(free_kb));
    text.decimal("ramUsedPct", desktop.then_some(facts.metrics.ram), 4);
    let ram = Share { key: "ram_used_pct", total: facts.metrics.ram, name_first: true };
    apps(text, "ramUsedPctByApp", facts, form, &ram);
    if !form.legacy {
        text.text("registrationId", Some(&ids.registration));
        round_trips(text, facts);
    }
    text.flag("switchLocked", desktop.then_some(facts.device.index % 2 == 1));
    if !form.legacy {
        tunnel(text, facts);
    }
    let signal = facts.ssid.is_some() && desktop;
    text.int("wifiStrengthDbm", signal.then(|| whole(facts.metrics.signal)));
}

fn round_trips(text: &mut Text, facts: &Facts) {
    if facts.device.is_phone() || !facts.connected() {
        return text.null("rtt");
    }
    if text.key("rtt") {
        let rtt = facts.metrics.rtt_us;
        text.raw("{");
        pair(text, "minRttUs", rtt * 0.7, rtt * 0.72);
        pair(text, "rttUs", rtt, rtt * 1.03);
        pair(text, "rttVarUs", rtt * 0.1, rtt * 0.11);
        text.raw("}");
    }
}

fn tunnel(text: &mut Text, facts: &Facts) {
    let counted = facts.device.masque && !facts.device.is_phone() && facts.connected();
    if !counted {
        text.null("tunnelStats");
    } else if text.key("tunnelStats") {
        let dice = facts.dice(Topic::Counters);
        let packets = |which| 12_000.0 * dice.with(which).unit().powi(3) * (0.2 + facts.activity);
        let (down, up) = (packets(1), packets(2));
        text.raw("{");
        for (key, ratio) in COUNTERS {
            pair(text, key, down * ratio, up * ratio);
        }
        text.int("statsWindowMs", Some(120_000));
        text.raw("}");
    }
    text.text("tunnelType", Some(if facts.device.masque { "masque" } else { "wireguard" }));
}

fn pair(text: &mut Text, key: &str, downstream: f64, upstream: f64) {
    text.key(key);
    text.raw("{");
    text.int("downstream", Some(whole(downstream)));
    text.int("upstream", Some(whole(upstream)));
    text.raw("}");
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}
