"""A Jetson's ``/sys`` and ``/proc``, as far as health is concerned, made of small files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ORIN: Mapping[str, str] = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "45843\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",  # a rail without power
    "sys/class/thermal/thermal_zone3/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone3/temp": "48312\n",
    "sys/class/thermal/thermal_zone3/trip_point_0_type": "active\n",
    "sys/class/thermal/thermal_zone3/trip_point_0_temp": "51000\n",
    "sys/class/thermal/thermal_zone3/trip_point_1_type": "passive\n",
    "sys/class/thermal/thermal_zone3/trip_point_1_temp": "99000\n",
    "sys/class/thermal/thermal_zone3/trip_point_2_type": "passive\n",
    "sys/class/thermal/thermal_zone3/trip_point_2_temp": "97000\n",
    "sys/class/thermal/thermal_zone3/trip_point_3_type": "critical\n",
    "sys/class/thermal/thermal_zone3/trip_point_3_temp": "104500\n",
    "sys/class/thermal/thermal_zone3/trip_point_4_type": "hot\n",
    "sys/class/thermal/thermal_zone3/trip_point_4_temp": "0\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device1/cur_state": "2\n",
    "sys/class/thermal/cooling_device2/type": "devfreq-17000000.gpu\n",
    "sys/class/thermal/cooling_device2/cur_state": "0\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1984000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1984000\n",
    "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq": "1984000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1984000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/class/hwmon/hwmon0/name": "pwmfan\n",
    "sys/class/hwmon/hwmon2/name": "ina3221\n",
    "sys/class/hwmon/hwmon2/in1_label": "VDD_GPU_SOC\n",
    "sys/class/hwmon/hwmon2/in1_input": "5032\n",
    "sys/class/hwmon/hwmon2/curr1_input": "480\n",
    "sys/class/hwmon/hwmon2/in2_label": "VDD_CPU_CV\n",
    "sys/class/hwmon/hwmon2/in2_input": "5032\n",
    "sys/class/hwmon/hwmon2/curr2_input": "240\n",
    "sys/class/hwmon/hwmon2/in3_label": "VIN_SYS_5V0\n",
    "sys/class/hwmon/hwmon2/in3_input": "5016\n",
    "sys/class/hwmon/hwmon2/curr3_input": "1000\n",
    "sys/class/hwmon/hwmon2/in4_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon2/in4_input": "1\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "7\n",
    "sys/class/hwmon/hwmon4/name": "ina238\n",
    "sys/class/hwmon/hwmon4/power1_input": "12345678\n",
    "proc/meminfo": "MemTotal:        7802816 kB\nMemFree:          312344 kB\nMemAvailable:    5002240 kB\n",
}


def write_tree(root: Path, files: Mapping[str, str] = ORIN) -> Path:
    """Write the files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
