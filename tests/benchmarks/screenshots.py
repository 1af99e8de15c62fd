"""Takes pictures of the page: the list, a finished job, two jobs compared, the form; light, dark and on a phone.

    screenshots.py --data-dir DIR --out FOLDER --chromium PROGRAM

The data directory needs two jobs that succeeded; no other server may use it.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.http.settings import local_settings
from ranksieve.service import wiring

WIDE, PHONE = (1200, 900), (390, 844)

LOOKS = (("light", WIDE), ("dark", WIDE), ("light", PHONE))


def main() -> None:
    options = ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path(".ranksieve"))
    options.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    options.add_argument("--chromium", type=Path, required=True, help="the browser's program")
    options.add_argument("--jobs", nargs="+", metavar="ID", help="the jobs; the last two that succeeded")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = local_settings(arguments.data_dir)
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    with embedded(wiring.build(settings)) as client, sync_playwright() as playwright:
        done = arguments.jobs or [job["id"] for job in client.jobs(states=["succeeded"])][:2]
        if len(done) < 2:
            raise SystemExit(f"{arguments.data_dir} has {len(done)} jobs that succeeded; two are needed")
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        views = {
            "list": "#/",
            "job": f"#/jobs/{done[0]}",
            "compare": f"#/compare/{','.join(done)}",
            "submit": f"#/submit?from={done[0]}",
        }
        for name, view in views.items():
            _shoot(browser, f"{client.connection.url}/{view}", arguments.out / name, key)


def _shoot(browser: Browser, url: str, file: Path, key: str) -> None:
    """Save a view in every look."""
    for scheme, (width, height) in LOOKS:
        look = "phone" if width == PHONE[0] else scheme
        with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height}) as context:
            context.add_init_script(f'sessionStorage.setItem("ranksieve.key", {json.dumps(key)})')
            page = context.new_page()
            page.goto(url)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=file.with_name(f"{file.name}-{look}.png"), full_page=True)


if __name__ == "__main__":
    main()
