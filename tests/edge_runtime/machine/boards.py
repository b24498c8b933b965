"""Recorded text of a Jetson TX2, a Xavier, an Orin, a Thor and a PC: files of /proc, /sys, /etc, and output of tools.

The lines are those that public issues and logs quote; the files are cut to what is read.
"""

import os

TX2 = {
    "proc/device-tree/model": "quill\0",
    "proc/device-tree/compatible": "nvidia,p2597-0000+p3310-1000\0nvidia,p3310-1000\0nvidia,tegra186\0",
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t186ref, EABI: aarch64, "
    "DATE: Sat Feb 19 17:05:08 UTC 2022\n",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 3 (v8l)\nBogoMIPS\t: 62.50\n"
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\nCPU implementer\t: 0x41\n",
    "proc/meminfo": "MemTotal:        8040604 kB\nMemFree:          455000 kB\nMemAvailable:    5963776 kB\n"
    "SwapTotal:       4020288 kB\nSwapFree:        4020288 kB\nHugePages_Total:       0\n",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
    "/dev/zram0                              partition\t670048\t0\t5\n"
    "/dev/zram1                              partition\t670048\t0\t5\n",
    "sys/class/devfreq/17000000.gp10b/min_freq": "114750000\n",
    "sys/class/devfreq/17000000.gp10b/max_freq": "1300500000\n",
    "sys/class/devfreq/13e10000.host1x/min_freq": "1\n",
    "sys/class/devfreq/13e10000.host1x/max_freq": "1\n",
    "usr/local/cuda/version.txt": "CUDA Version 10.2.300\n",
    "usr/lib/python3.6/dist-packages/tensorrt/__init__.py": "",
    "dev/nvhost-gpu": "",
    "dev/video0": "",
    "dev/video1": "",
    "sys/class/video4linux/video0/name": "vi-output, ov5693 2-0036\n",
}
ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, "
    "DATE: Mon Jun 16 16:07:13 UTC 2025\n# KERNEL_VARIANT: oot\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp "
    "asimddp\n",
    "proc/meminfo": "MemTotal:       64309248 kB\nMemAvailable:   58020000 kB\nSwapTotal:      32154620 kB\n",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 2679548 0 5\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    "usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}, '
    '"cuda_cudart" : {"name" : "CUDA Runtime (cudart)", "version" : "12.6.68"}}',
}
XAVIER = {
    "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3509-0000+p3668-0000\0nvidia,p3668-0000\0nvidia,tegra194\0",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
    "DATE: Tue Aug  1 19:57:35 UTC 2023\n",
    "proc/meminfo": "MemTotal:        7017904 kB\nMemAvailable:    5200000 kB\nSwapTotal:       3508952 kB\n",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 584824 0 5\n",
    "sys/class/devfreq/17000000.gv11b/min_freq": "114750000\n",
    "sys/class/devfreq/17000000.gv11b/max_freq": "1109250000\n",
    "usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "11.4.19"}}',
}
THOR = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, "
    "DATE: Thu Sep 25 22:47:11 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "proc/meminfo": "MemTotal:      128825804 kB\nMemAvailable:  120000000 kB\nSwapTotal:             0 kB\n",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "315000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/class/devfreq/gpu-nvd-0/min_freq": "1692000000\n",
    "sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
    "usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "13.0.0"}}',
    "dev/nvidia0": "",
}
PC = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse sse2 avx avx2 fma avx512f\n",
    "proc/meminfo": "MemTotal:       24600000 kB\nMemAvailable:   20400000 kB\nSwapTotal:             0 kB\n",
}
NVPMODEL = "NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0"
NVPMODEL_MAXQ = "NV Power Mode: MAXQ\n1"
CLOCKS_WITHOUT_ROOT = "Error: Run this script(/usr/bin/jetson_clocks) as a root user"
CLOCKS = (
    "SOC family:tegra234  Machine:NVIDIA Jetson Orin NX Engineering Reference Developer Kit\nOnline CPUs: 0-5\n"
    "cpu0:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=1510400 IdleStates: WFI=1 c7=1 \n"
    "GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000\nActive GPU TPCs: 2\n"
    "EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0\n"
)


def write_root(folder, files):
    """Writes {name: text} below a folder that is to stand for /; returns its path."""
    for name, text in files.items():
        path = os.path.join(str(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return str(folder)
