"""Writes the topology files beside it, after the form that NCCL's dumps have, from what the machines are made of."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
DGX1V = {
    0: {1: 1, 2: 1, 3: 2, 4: 2},
    1: {0: 1, 2: 2, 3: 1, 5: 2},
    2: {0: 1, 1: 2, 3: 2, 6: 1},
    3: {0: 2, 1: 1, 2: 2, 7: 1},
    4: {0: 2, 5: 1, 6: 1, 7: 2},
    5: {1: 2, 4: 1, 6: 2, 7: 1},
    6: {2: 1, 4: 1, 5: 2, 7: 2},
    7: {3: 1, 4: 2, 5: 1, 6: 2},
}
GPU = 'class="0x030200" vendor="0x10de" device="{device}" subsystem_vendor="0x10de" subsystem_device="0x1212"'
SPEEDS = {3: 'link_speed="8.0 GT/s PCIe" link_width="16"', 4: 'link_speed="16.0 GT/s PCIe" link_width="16"'}


def dgx1v() -> str:
    """One machine; each PCIe switch has two GPUs and a NIC, and there are two on each CPU."""
    bus = ["06", "07", "0a", "0b", "85", "86", "89", "8a"]
    lines = ['<system version="1">']
    for cpu in range(2):
        lines.append(
            f'  <cpu numaid="{cpu}" affinity="0000ffff" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="79">'
        )
        for switch in (2 * cpu, 2 * cpu + 1):
            lines.append(f'    <pci busid="0000:{bus[2 * switch][0]}{switch}:00.0" class="0x060400" {SPEEDS[3]}>')
            for gpu in (2 * switch, 2 * switch + 1):
                lines.append(
                    f'      <pci busid="0000:{bus[gpu]}:00.0" {GPU.format(device="0x1db1")} {SPEEDS[3]}>\n'
                    f'        <gpu dev="{gpu}" sm="70" rank="{gpu}" gdr="1">'
                )
                lines += [
                    f'          <nvlink target="0000:{bus[other]}:00.0" count="{lanes}" tclass="0x030200"/>'
                    for other, lanes in DGX1V[gpu].items()
                ]
                lines.append("        </gpu>\n      </pci>")
            lines.append(nic(f"mlx5_{switch}", switch, 100000, f"0000:{bus[2 * switch][0]}c:0{switch}.0", 3))
            lines.append("    </pci>")
        lines.append("  </cpu>")
    return "\n".join([*lines, "</system>"]) + "\n"


def nic(name: str, dev: int, speed: int, address: str, generation: int) -> str:
    return (
        f'      <pci busid="{address}" class="0x020700" vendor="0x15b3" device="0x1013" {SPEEDS[generation]}>\n'
        f'        <nic>\n          <net name="{name}" dev="{dev}" speed="{speed}" port="1" latency="0.000000" '
        f'guid="0x{dev + 16:x}" maxconn="131072" gdr="1"/>\n        </nic>\n      </pci>'
    )


def two_a100() -> str:
    """Two machines of two A100s on an NVSwitch (seen as six chips, two lanes to each), fused by NCCL."""
    lines = ['<system version="1">']
    for host in range(2):
        lines.append(
            f'  <cpu host_hash="0x16fe256e956b115{host}" numaid="0" affinity="ffff" arch="x86_64" '
            'vendor="AuthenticAMD" familyid="143" modelid="49">'
        )
        lines.append(
            f'    <pci busid="0000:{host}1:00.0" class="0x060400" vendor="0x1022" device="0x1483" {SPEEDS[4]}>'
        )
        for gpu in range(2):
            lines.append(
                f'      <pci busid="0000:{host}{gpu + 4}:00.0" {GPU.format(device="0x20b0")} {SPEEDS[4]}>\n'
                f'        <gpu dev="{gpu}" sm="80" rank="{2 * host + gpu}" gdr="1">'
            )
            lines += [
                f'          <nvlink target="0000:c{chip}:00.0" count="2" tclass="0x068000"/>' for chip in range(4, 10)
            ]
            lines.append("        </gpu>\n      </pci>")
            lines.append(nic(f"mlx5_{gpu}", gpu, 200000, f"0000:{host}{gpu + 8}:00.0", 4))
        lines.append("    </pci>\n  </cpu>")
    return "\n".join([*lines, "</system>"]) + "\n"


def cloud() -> str:
    """A virtual machine that hides PCIe: no speeds, the NIC below each CPU."""
    lines = ['<system version="1">']
    for gpu in range(2):
        lines += [
            f'  <cpu numaid="{gpu}" affinity="00ffffff" arch="x86_64" vendor="AuthenticAMD" modelid="1">',
            f'    <pci busid="000{gpu + 1}:00:00.0" {GPU.format(device="0x20b5")} link_speed="" link_width="0">',
            f'      <gpu dev="{gpu}" sm="80" rank="{gpu}" gdr="1">',
            f'        <nvlink target="000{2 - gpu}:00:00.0" count="12" tclass="0x030200"/>',
            "      </gpu>\n    </pci>\n    <nic>",
            '      <net name="eth0" dev="0" speed="100000" port="0" latency="0.000000" guid="0x0" maxconn="65536"/>',
            "    </nic>\n  </cpu>",
        ]
    return "\n".join([*lines, "</system>"]) + "\n"


if __name__ == "__main__":
    for name, text in (("dgx1v.xml", dgx1v()), ("two-a100.xml", two_a100()), ("cloud.xml", cloud())):
        (HERE / name).write_text(text)
