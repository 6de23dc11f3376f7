//! What a Service needs of addresses and ports, and the fields that say what it got
//! (`pkg/registry/core/service/storage/alloc.go`). This cluster has one family: IPv4.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::status::{ApiError, FieldError};

use super::pool::Refusal;
use super::{Alloc, Kind, Reservation};

const IP_TAKEN: &str = "provided IP is already allocated";
const PORT_TAKEN: &str = "provided port is already allocated";
const FULL: &str = "range is full";

pub(super) fn reserve(
    alloc: &Arc<Alloc>,
    service: Option<&mut Object>,
    old: Option<&Object>,
) -> Result<Reservation, ApiError> {
    let mut reservation = Reservation::new(alloc);
    let Some(service) = service else {
        if let Some(old) = old {
            release_all(&mut reservation, old);
        }
        return Ok(reservation);
    };
    let name = service.name().to_owned();
    let invalid = |error: FieldError| ApiError::invalid("", "Service", &name, &[error]);
    if let Some(old) = old {
        keep_what_it_had(service, old);
    }
    families(service, old).map_err(invalid)?;
    let had_ip = old.and_then(cluster_ip);
    let ip = match cluster_ip(service) {
        None if needs_ip(service) && !is_headless(service) => {
            let number = reservation.take_any(Kind::Ip).map_err(|_| {
                ApiError::internal(format!("failed to allocate a serviceIP: {FULL}"))
            })?;
            set_cluster_ip(service, &Ipv4Addr::from(number).to_string());
            Some(Ipv4Addr::from(number))
        }
        Some(ip) if had_ip != Some(ip) => {
            let taken = reservation.take(Kind::Ip, ip.into());
            taken.map_err(|refusal| invalid(ip_refused(service, ip, &refusal)))?;
            Some(ip)
        }
        ip => ip,
    };
    if let Some(had) = had_ip.filter(|had| ip != Some(*had)) {
        reservation.release(Kind::Ip, had.into());
    }
    ports(&mut reservation, service, old).map_err(|failure| match failure {
        PortFailure::Field(error) => invalid(error),
        PortFailure::Full => ApiError::internal(format!("failed to allocate a nodePort: {FULL}")),
    })?;
    Ok(reservation)
}

/// A deleted Service gives everything back.
fn release_all(reservation: &mut Reservation, old: &Object) {
    if let Some(ip) = cluster_ip(old) {
        reservation.release(Kind::Ip, ip.into());
    }
    for number in distinct(node_ports(old)) {
        reservation.release(Kind::Port, number);
    }
}

enum PortFailure {
    Field(FieldError),
    Full,
}

fn ports(
    reservation: &mut Reservation,
    service: &mut Object,
    old: Option<&Object>,
) -> Result<(), PortFailure> {
    let had = old.map(node_ports).unwrap_or_default();
    let mut has: Vec<u32> = Vec::new();
    let list = service.at(&["spec", "ports"]).and_then(Value::as_array);
    let mut list = list.cloned().unwrap_or_default();
    for (at, port) in list.iter().enumerate() {
        if let Some(number) = node_port(port) {
            // The same number for another protocol of the same Service is one allocation.
            if !had.contains(&number) && !has.contains(&number) {
                take_port(reservation, format!("spec.ports[{at}].nodePort"), number)?;
            }
            has.push(number);
        }
    }
    let wants = wants_node_ports(service);
    if wants {
        for port in list.iter_mut().filter(|port| node_port(port).is_none()) {
            let number = any_port(reservation)?;
            port["nodePort"] = number.into();
            has.push(number);
        }
        let spec = child_mut(&mut service.0, "spec");
        if !list.is_empty() {
            spec.insert("ports".into(), list.into());
        }
    }
    match health_check_port(service) {
        Some(number) => {
            if !had.contains(&number) && !has.contains(&number) {
                take_port(reservation, "spec.healthCheckNodePort".to_owned(), number)?;
            }
            has.push(number);
        }
        None if needs_health_check(service) => {
            let number = any_port(reservation)?;
            let spec = child_mut(&mut service.0, "spec");
            spec.insert("healthCheckNodePort".into(), number.into());
            has.push(number);
        }
        None => {}
    }
    let gone = had.into_iter().filter(|number| !has.contains(number));
    for number in distinct(gone.collect()) {
        reservation.release(Kind::Port, number);
    }
    Ok(())
}

fn take_port(reservation: &mut Reservation, path: String, number: u32) -> Result<(), PortFailure> {
    let taken = reservation.take(Kind::Port, number);
    taken.map_err(|refusal| PortFailure::Field(port_refused(path, number, &refusal)))
}

fn any_port(reservation: &mut Reservation) -> Result<u32, PortFailure> {
    let taken = reservation.take_any(Kind::Port);
    taken.map_err(|_| PortFailure::Full)
}

fn distinct(mut numbers: Vec<u32>) -> Vec<u32> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// An update that leaves allocated fields empty keeps them, and one that changes the type gives up
/// what the new type does not have (`patchAllocatedValues`, `dropTypeDependentFields`).
fn keep_what_it_had(service: &mut Object, old: &Object) {
    let ip = old.text_at(&["spec", "clusterIP"]);
    let new_ip = service.text_at(&["spec", "clusterIP"]);
    if needs_ip(service) && needs_ip(old) && new_ip.is_empty() && !ip.is_empty() {
        set_cluster_ip(service, ip);
    } else if !needs_ip(service) && needs_ip(old) {
        let same = new_ip == ip;
        let spec = child_mut(&mut service.0, "spec");
        if same {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        spec.remove("ipFamilies");
        spec.remove("ipFamilyPolicy");
    }
    keep_ports(service, old);
    let kept = old.at(&["spec", "healthCheckNodePort"]).cloned();
    let needs = needs_health_check(service);
    let spec = child_mut(&mut service.0, "spec");
    match kept {
        Some(kept) if needs && !spec.contains_key("healthCheckNodePort") => {
            spec.insert("healthCheckNodePort".into(), kept);
        }
        Some(kept) if !needs && spec.get("healthCheckNodePort") == Some(&kept) => {
            spec.remove("healthCheckNodePort");
        }
        _ => {}
    }
}

fn keep_ports(service: &mut Object, old: &Object) {
    let old_ports = old.at(&["spec", "ports"]).and_then(Value::as_array);
    let old_ports = old_ports.cloned().unwrap_or_default();
    let (wants, may) = (wants_node_ports(service), may_have_node_ports(service));
    let might = may_have_node_ports(old);
    let had = |number: u32| old_ports.iter().any(|port| node_port(port) == Some(number));
    let new_ports = child_mut(&mut service.0, "spec").get_mut("ports");
    for port in new_ports
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let same =
            |old: &&Value| old["port"] == port["port"] && old["protocol"] == port["protocol"];
        let before = old_ports.iter().find(same).and_then(node_port);
        match (node_port(port), before) {
            (None, Some(before)) if wants => port["nodePort"] = before.into(),
            (Some(now), _) if !may && might && had(now) => {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
            _ => {}
        }
    }
}

/// `clusterIPs`, `ipFamilies`, `ipFamilyPolicy` as a single-stack IPv4 cluster fills them in.
fn families(service: &mut Object, old: Option<&Object>) -> Result<(), FieldError> {
    if !needs_ip(service) {
        return Ok(());
    }
    let selector = service.at(&["spec", "selector"]).and_then(Value::as_object);
    // A headless Service without a selector may have endpoints of either family.
    let is_free = is_headless(service) && selector.is_none_or(Map::is_empty);
    let spec = child_mut(&mut service.0, "spec");
    sync_cluster_ips(spec, old);
    let policy = spec.get("ipFamilyPolicy").and_then(Value::as_str);
    let policy = policy.map(str::to_owned);
    if policy.as_deref() == Some("RequireDualStack") && !is_free {
        return Err(FieldError::invalid(
            "spec.ipFamilyPolicy",
            &json!("RequireDualStack"),
            "this cluster is not configured for dual-stack services",
        ));
    }
    let families = spec.get("ipFamilies").and_then(Value::as_array);
    let families = families.cloned().unwrap_or_default();
    let other = families.iter().position(|family| family != "IPv4");
    if let Some(at) = other.filter(|_| !is_free) {
        let path = format!("spec.ipFamilies[{at}]");
        let why = "not configured on this cluster";
        return Err(FieldError::invalid(path, &families[at], why));
    }
    let default = if is_free {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    let policy = policy.unwrap_or_else(|| default.to_owned());
    let families = match families.as_slice() {
        [] if policy == "RequireDualStack" => json!(["IPv4", "IPv6"]),
        [] => json!(["IPv4"]),
        given => given.to_vec().into(),
    };
    spec.insert("ipFamilies".into(), families);
    spec.insert("ipFamilyPolicy".into(), policy.into());
    Ok(())
}

/// `clusterIP` is the first of `clusterIPs`; whoever changes only one of them means both.
fn sync_cluster_ips(spec: &mut Map<String, Value>, old: Option<&Object>) {
    let ip = spec.get("clusterIP").and_then(Value::as_str);
    let ip = ip.unwrap_or_default().to_owned();
    let first = spec.get("clusterIPs").and_then(|ips| ips.get(0)?.as_str());
    let first = first.unwrap_or_default().to_owned();
    let old_ip = old.map(|old| old.text_at(&["spec", "clusterIP"]));
    if ip.is_empty() {
        if old_ip.is_some_and(|old| old != first) && !first.is_empty() {
            spec.insert("clusterIP".into(), first.into());
        }
    } else if first.is_empty() || (old_ip == Some(&first) && first != ip) {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

fn set_cluster_ip(service: &mut Object, ip: &str) {
    let spec = child_mut(&mut service.0, "spec");
    spec.insert("clusterIP".into(), ip.into());
    spec.insert("clusterIPs".into(), json!([ip]));
}

fn kind(service: &Object) -> &str {
    match service.text_at(&["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn needs_ip(service: &Object) -> bool {
    kind(service) != "ExternalName"
}

fn is_headless(service: &Object) -> bool {
    service.text_at(&["spec", "clusterIP"]) == "None"
}

fn may_have_node_ports(service: &Object) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether ports without a `nodePort` get one.
fn wants_node_ports(service: &Object) -> bool {
    let allocates = service.at(&["spec", "allocateLoadBalancerNodePorts"]);
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => allocates.and_then(Value::as_bool).unwrap_or(true),
        _ => false,
    }
}

fn needs_health_check(service: &Object) -> bool {
    kind(service) == "LoadBalancer"
        && service.text_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// The address it has or asks for; `None` where it is headless or empty.
fn cluster_ip(service: &Object) -> Option<Ipv4Addr> {
    if !needs_ip(service) {
        return None;
    }
    service.text_at(&["spec", "clusterIP"]).parse().ok()
}

fn node_port(port: &Value) -> Option<u32> {
    positive(port.get("nodePort"))
}

fn health_check_port(service: &Object) -> Option<u32> {
    positive(service.at(&["spec", "healthCheckNodePort"]))
}

fn positive(number: Option<&Value>) -> Option<u32> {
    let number = u32::try_from(number?.as_u64()?).ok()?;
    (number > 0).then_some(number)
}

fn node_ports(service: &Object) -> Vec<u32> {
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array);
    let ports = ports.into_iter().flatten().filter_map(node_port);
    ports.chain(health_check_port(service)).collect()
}

fn ip_refused(service: &Object, ip: Ipv4Addr, refusal: &Refusal) -> FieldError {
    let why = match refusal {
        Refusal::Taken => IP_TAKEN.to_owned(),
        Refusal::Outside(range) => format!(
            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
        ),
        Refusal::Full => FULL.to_owned(),
    };
    let ips = service.at(&["spec", "clusterIPs"]).cloned();
    let why = format!("failed to allocate IP {ip}: {why}");
    FieldError::invalid("spec.clusterIPs", &ips.unwrap_or_default(), &why)
}

fn port_refused(path: String, number: u32, refusal: &Refusal) -> FieldError {
    let why = match refusal {
        Refusal::Taken => PORT_TAKEN.to_owned(),
        Refusal::Outside(range) => {
            format!("provided port is not in the valid range. The range of valid ports is {range}")
        }
        Refusal::Full => FULL.to_owned(),
    };
    FieldError::invalid(path, &number.into(), &why)
}
