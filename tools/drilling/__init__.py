"""The parts of the drill, `tools/drill.py`: trials of kedge's commands under kills, full disks and broken inputs."""
