"""`xseg doctor` as a user runs it; what it looks at is tested in tests/test_doctor.py."""


def test_lines_or_json_and_a_status_that_tells_of_problems(run, tmp_path):
    path = {"PATH": str(tmp_path)}
    lines = run("doctor", env=path).lines
    found = run("doctor", "--json", env=path).json
    assert len(lines) == len(found) > 15
    assert {one["state"] for one in found} <= {"ok", "note"}
    assert [one["state"] for one in found if one["about"] == "SLURM"] == ["note"]
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    broken = run("doctor", env=path, status=69).lines
    assert [line for line in broken if line.startswith("PROBLEM")] == [
        f"PROBLEM  SLURM: {tmp_path}/sbatch is there, but no controller answers; ask whoever keeps the cluster"
    ]
