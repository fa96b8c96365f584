"""Names of findings that stay the same between runs, even if lines above are inserted or removed."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from otel_fastperf.findings import CallSite, Finding


class Name(NamedTuple):
    """The identity of a finding: everything but the line number."""

    kind: str
    method: str
    route: str
    subject: str
    #: relative to the root of the tests, with slashes; "" if no line is known
    file: str
    function: str


@dataclass(frozen=True, slots=True)
class Names:
    """Makes names, with files relative to the root of the tests."""

    root: Path

    def of(self, finding: Finding) -> Name:
        """The name of a finding."""
        site = finding.call_site
        file, function = ("", "") if site is None else (self.file(site.file), site.function)
        return Name(str(finding.kind), finding.method, finding.route, finding.subject, file, function)

    def site(self, site: CallSite) -> str:
        """`shop/orders.py:41 in list_orders`, for people."""
        return f"{self.file(site.file)}:{site.line} in {site.function}"

    def file(self, file: str) -> str:
        """The file relative to the root; of one elsewhere the last two parts, which are the same on other machines."""
        path = Path(file)
        for root in (self.root, self.root.resolve()):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return "/".join(path.parts[-2:])
