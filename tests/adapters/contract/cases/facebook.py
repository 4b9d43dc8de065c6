from tests.adapters.contract.case import Case
from tests.adapters.contract.cases.messaging import CODES, count
from tests.adapters.contract.cases.meta import sign

CASE = Case(count=count, sign=sign, samples="messenger", codes=CODES)
