"""The kinds of proposals: field numbers of etcd's InternalRaftRequest (etcd-api, appendix A), which name a request in the log, in
`propose_many` and in the questions for a permission. Native modules that tell some apart repeat those.
"""

from typing import Final

RANGE: Final = 3  # never written into the log here: what a permission is asked for
PUT: Final = 4
DELETE_RANGE: Final = 5
TXN: Final = 6
COMPACTION: Final = 7
LEASE_GRANT: Final = 8
LEASE_REVOKE: Final = 9
ALARM: Final = 10
AUTH_ENABLE: Final = 1000
AUTH_DISABLE: Final = 1011
AUTHENTICATE: Final = 1012
AUTH_USER_ADD: Final = 1100
AUTH_USER_DELETE: Final = 1101
AUTH_USER_CHANGE_PASSWORD: Final = 1103
AUTH_USER_GRANT_ROLE: Final = 1104
AUTH_USER_REVOKE_ROLE: Final = 1105
AUTH_ROLE_ADD: Final = 1200
AUTH_ROLE_DELETE: Final = 1201
AUTH_ROLE_GRANT_PERMISSION: Final = 1203
AUTH_ROLE_REVOKE_PERMISSION: Final = 1204
CLUSTER_VERSION_SET: Final = 1300
MEMBER_ATTRIBUTES_SET: Final = 1301
DOWNGRADE_INFO_SET: Final = 1302
