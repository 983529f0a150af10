"""What threads may do that work for a reader, an owner, or nobody who is logged in any more."""

import subprocess
import sys
from pathlib import Path

from src.paths import ROOT

# In a process of its own: a guard stays for good.
SCRIPT = """
import os, pathlib, shutil, subprocess, sys, tempfile
from src import access, paths, store
from src.access import ReadOnlyAccess, Role
from src.panel.access import guard, logins, tokens
from src.files import keep, write_atomic

home = paths.home()
with store.writing():
    pass
tokens.make("owner", Role.EDIT), tokens.make("reader", Role.READ)
for name in ("a", "b"):
    (home / name).write_text("a")
(home / "full").mkdir()
(home / "full" / "x").write_text("x")
(home / "link").symlink_to(home / "full")
outside = pathlib.Path(tempfile.mkdtemp())
(outside / "into").symlink_to(home)
os.chdir(home)

def write():
    with store.writing():
        pass

deeds = {
    "row": write,
    "open": lambda: open(home / "new", "w"),
    "append": lambda: open(home / "a", "a"),
    "update": lambda: open(home / "a", "r+"),
    "os.open": lambda: os.open(home / "new", os.O_CREAT | os.O_WRONLY),
    "relative": lambda: open("new", "w"),
    "bytes": lambda: open(os.fsencode(home / "new"), "w"),
    "dots": lambda: open(outside / ".." / outside.name / "into" / "new", "w"),
    "write_text": lambda: (home / "new").write_text("x"),
    "atomic": lambda: write_atomic(home / "new", "x"),
    "keep": lambda: keep(b"x", home / "data", "new"),
    "remove": lambda: os.remove(home / "a"),
    "unlink": lambda: (home / "a").unlink(),
    "rename": lambda: os.rename(home / "a", outside / "a"),
    "replace": lambda: os.replace(outside / "mine", home / "a"),
    "mkdir": lambda: (home / "folder").mkdir(),
    "rmdir": lambda: os.rmdir(home / "full"),
    "rmtree": lambda: shutil.rmtree(home / "full"),
    "move": lambda: shutil.move(home / "full", outside / "full"),
    "link": lambda: os.link(home / "a", outside / "hard"),
    "symlink": lambda: os.symlink("/etc/passwd", home / "soft"),
    "truncate": lambda: os.truncate(home / "a", 0),
    "chmod": lambda: os.chmod(home / "a", 0o777),
    "utime": lambda: os.utime(home / "a"),
    "process": lambda: subprocess.run(["true"]),
    "system": lambda: os.system("true"),
    "kill": lambda: os.kill(os.getppid(), 18),
}
(outside / "mine").write_text("mine")
fine = {
    "read": lambda: (home / "b").read_text(),
    "row": lambda: store.reading().__enter__(),
    "elsewhere": lambda: (outside / "y").write_text("y"),
    "alive": lambda: os.kill(os.getpid(), 0),
}
guard.install()

def refused(deeds):
    found = {}
    for name, deed in deeds.items():
        try:
            deed()
        except ReadOnlyAccess as error:
            found[name] = str(error)
    return found

def as_login(key):
    guard._working_for.set(key)
    return refused(deeds), refused(fine)

def state():
    return sorted((str(f), f.lstat().st_mode, f.lstat().st_mtime_ns) for f in home.rglob("*")
                  if "results" not in str(f) and "access" not in str(f))

key = {name: logins.key_of(logins.begin(tokens.find(name))) for name in ("reader", "owner")}
with guard.Pool(1) as pool:
    # The panel's own threads are asked nothing.
    assert pool.submit(refused, fine).result() == {}
with guard.Pool(1) as pool:
    before = state()
    told, of_fine = pool.submit(as_login, key["reader"]).result()
    assert told == dict.fromkeys(deeds, guard.READ_ONLY), deeds.keys() - told.keys()
    assert of_fine == {} and state() == before
    told, _ = pool.submit(as_login, "").result()
    assert told == dict.fromkeys(deeds, guard.ENDED)
    logins.end(key["reader"])
    assert set(pool.submit(as_login, key["reader"]).result()[0].values()) == {guard.ENDED}
    # Work is done for whoever handed it in, and not for whoever did before.
    assert pool.submit(guard.login_key).result() is None
    guard._working_for.set(key["owner"])
    assert pool.submit(guard.login_key).result() == key["owner"]
    assert pool.submit(refused, {"row": write, "open": deeds["open"]}).result() == {}
    guard._working_for.set(None)
    tokens.revoke("owner")
    guard._working_for.set(key["owner"])
    assert pool.submit(refused, {"row": write}).result() == {"row": guard.ENDED}
print("done")
"""


def test_a_reader_changes_no_row_no_file_and_no_process(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.endswith("done\n"), done.stderr
