"""Take the README's screenshots of the live page: assets/explorer.png and explorer_dark.png.

    python tests/screenshot.py [--folder FOLDER]

It needs Chromium and a run drawn by visualize.py. It carries out the first experiment: one head is cut, and
the answer breaks.
"""

import argparse
import base64
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, DENSITY = 800, 2                                     # CSS pixels, and pixels for each


def start_browser():
    """Return a headless Chromium driven by selenium; None if it is not installed."""
    from selenium import webdriver

    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in "--headless=new", "--no-sandbox", "--window-size=1280,1000":
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(programs[1]))


def set_window(browser, width: int, height: int, density: int = 1, dark: bool = False) -> None:
    """Show pages in a window of this size, to someone who prefers light or dark pages."""
    window = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def take_screenshot(browser, page: Path, path: Path, dark: bool) -> None:
    """Cut the head that matters most and save the answer, all heads and the lines as a PNG."""
    from selenium.webdriver.support.ui import WebDriverWait

    set_window(browser, WIDTH, 1000, DENSITY, dark)
    browser.get(page.resolve().as_uri())
    browser.execute_script("""
        const [experiment] = document.querySelectorAll(".experiment");
        experiment.querySelector("input").click();
        experiment.querySelectorAll(".try")[1].click();
        byId("present").click();
    """)
    WebDriverWait(browser, 60).until(lambda browser: "%" in browser.find_element("id", "exact").text)
    clip = browser.execute_script("""
        scrollTo(0, 0);
        document.getAnimations().forEach(animation => animation.finish());
        const {top: y} = byId("asking").getBoundingClientRect();
        const {bottom} = byId("heads").getBoundingClientRect();
        for (const id of ["grid", "show-numbers"]) byId(id).hidden = true;      // they would be cut in two
        return {x: 0, y: y - 2, width: innerWidth, height: bottom - y + 6, scale: 1};
    """)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the README's screenshots of the live page.")
    parser.add_argument("--folder", type=Path, default=ROOT / "models" / "reverse_task" / "encoder",
                        help="folder of a run drawn by visualize.py (default: the encoder that reverses)")
    page = parser.parse_args().folder / "explorer.html"
    if not page.is_file():
        parser.error(f"{page} does not exist; run python visualize.py first")
    if (browser := start_browser()) is None:
        parser.error("Chromium is not installed; apt-get install chromium chromium-driver")
    for dark in False, True:
        path = ROOT / "assets" / f"explorer{'_dark' if dark else ''}.png"
        take_screenshot(browser, page, path, dark)
        print(path.relative_to(ROOT))
    browser.quit()


if __name__ == "__main__":
    main()
