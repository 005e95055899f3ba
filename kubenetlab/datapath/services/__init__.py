"""Services as the rules of nodes and their BGP sessions need them."""
