//! Devices: what is plugged in. A list for now.

use crate::method::{Since, methods};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

methods! {
    /// Lists the devices the kernel knows.
    List = "device.list"(ListParams) -> Vec<Device> {
        required: [],
        permission: DeviceList,
        since: Since::V1,
        errors: [],
        example: "{}",
    }
}

/// Nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeviceListParams")]
pub struct ListParams {}

/// One device.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name: the alias given to it in the configuration.
    pub id: String,
    /// `serial`, `camera`, `audio_in`, `audio_out` or `gpio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is in the file system.
    pub path: String,
    /// `vendor:product:serial`.
    pub hardware_id: String,
    /// `available`, `busy` or `error`.
    pub status: String,
    /// Who has claimed it.
    pub owner: Option<String>,
    /// More about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}
